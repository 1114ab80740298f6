"""What each part scores on responses of the SFT model, so that parts of different scales can be weighed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field

from triplex.models.causal import CausalLM
from triplex.rewards.contract import Reward
from triplex.rl.rollout import check_prompts_fit, decode, encode_prompts, sample_responses
from triplex.runs.errors import InputError
from triplex.runs.params import Section, described
from triplex.runs.seeds import derive_seed

_PROMPTS_A_PASS = 64
_ROUNDING = 1e-6  # of the largest value: what float32 can put between values that are the same


class CalibrationConfig(Section):
    """`reward.calibration:` the responses on which normalised parts get mean 0 and variance 1."""

    num_samples: int = described(
        "training prompts, one response each, the first by the hash of their ids", unit="responses", ge=2
    )
    max_new_tokens: int = described("longest response", unit="tokens", ge=1)
    temperature: float = described("logits are divided by it", gt=0)


class Moments(Section):
    """Of one part's values."""

    mean: float
    std: float = Field(gt=0)


class Samples(Section):
    """Responses with their prompts and the data set's other columns, ready for a reward."""

    prompts: list[str]
    completions: list[str]
    completion_ids: list[list[int]]
    columns: dict[str, list[Any]]


def sample_sft(
    lm: CausalLM, tokenizer: Any, rows: Sequence[Mapping[str, Any]], config: CalibrationConfig, seed: int
) -> Samples:
    """Responses of `lm` to rows of the prompts table; a row's response depends on its id and `seed` alone."""
    rows = sorted(rows, key=lambda row: derive_seed(seed, row["id"]))[: config.num_samples]
    check_prompts_fit(
        lm, tokenizer, [row["id"] for row in rows], [row["prompt"] for row in rows], config.max_new_tokens
    )
    device = next(lm.parameters()).device
    completions: list[str] = []
    completion_ids: list[list[int]] = []
    for start in range(0, len(rows), _PROMPTS_A_PASS):
        part = rows[start : start + _PROMPTS_A_PASS]
        prompt_ids, prompt_mask = encode_prompts(tokenizer, [row["prompt"] for row in part], device)
        responses = sample_responses(
            lm, prompt_ids, prompt_mask, [derive_seed(seed, "calibration", row["id"]) for row in part], group_size=1,
            max_new_tokens=config.max_new_tokens, temperature=config.temperature,
            pad_id=tokenizer.pad_token_id,
        )  # fmt: skip
        texts, ids = decode(tokenizer, responses)
        completions += texts
        completion_ids += ids
    return Samples(
        prompts=[row["prompt"] for row in rows],
        completions=completions,
        completion_ids=completion_ids,
        columns={"reference": [row["reference"] for row in rows]},
    )


def calibrate(name: str, reward: Reward, samples: Samples) -> Moments:
    """Mean and standard deviation (n - 1) of a part's values on `samples`, where it applies."""
    values: list[float | None] = []
    for start in range(0, len(samples.prompts), _PROMPTS_A_PASS):  # as many at a time as in training, about
        part = slice(start, start + _PROMPTS_A_PASS)
        columns = {name: each[part] for name, each in samples.columns.items()}
        values += reward(samples.prompts[part], samples.completions[part], samples.completion_ids[part], **columns)
    found = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
    if len(found) < 2 or found.std() <= _ROUNDING * found.abs().max():
        what = f"{len(found)} of {len(values)} responses of the SFT model have a value"
        what += ", all the same one" if len(found) > 1 else ""
        raise InputError(
            f"reward.{name}.normalise", what, "leave normalise out, or mend the part: it tells nothing apart"
        )
    return Moments(mean=found.mean().item(), std=found.std().item())
