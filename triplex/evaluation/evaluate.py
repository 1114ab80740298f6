"""Every model answers the same held-out prompts with the same seeds, and is measured in the same way."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from triplex.evaluation.metrics import distinct_n, repetition, self_bleu, vocabulary
from triplex.evaluation.statistics import CONFIDENCE, paired_difference, summary
from triplex.models.causal import CausalLM
from triplex.models.policy import Policy
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.composite import CompositeReward
from triplex.rewards.contract import Reward
from triplex.rl.masked import masked_mean
from triplex.rl.rollout import Responses, check_prompts_fit, decode, encode_prompts, sample_responses
from triplex.runs.params import Section, described
from triplex.runs.seeds import derive_seed

REFERENCE = "sft"
PAIRED = ("reward", "sentiment", "improvement_pct", "repetition", "length", "kl_nats")


class EvaluateConfig(Section):
    """`evaluate:` how held-out responses are sampled."""

    max_new_tokens: int = described("longest response", unit="tokens", ge=1)
    temperature: float = described("logits are divided by it", gt=0)
    batch_size: int = described("prompts in one pass; memory and speed", unit="prompts", ge=1)


def sample_rows(
    name: str, lm: CausalLM, reference: CausalLM, tokenizer: Any, prompts: Sequence[tuple[str, str]],
    config: EvaluateConfig, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row a prompt (id, text): the response of `lm` and its KL to `reference`, nats per token; in one pass.

    The KL is exact over the vocabulary at each place of the response, at temperature 1, and 0 for no token. A prompt's
    seed does not depend on the model.
    """
    ids, texts = [name for name, _ in prompts], [text for _, text in prompts]
    check_prompts_fit(lm, tokenizer, ids, texts, config.max_new_tokens)
    device, policies = next(lm.parameters()).device, (Policy(lm, None), Policy(reference, None))
    prompt_ids, prompt_mask = encode_prompts(tokenizer, texts, device)
    responses = sample_responses(
        lm, prompt_ids, prompt_mask, [derive_seed(seed, prompt_id) for prompt_id in ids], group_size=1,
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, pad_id=tokenizer.pad_token_id,
    )  # fmt: skip
    kl = _kl(*policies, prompt_ids, prompt_mask, responses).tolist()
    rows = zip(prompts, *decode(tokenizer, responses), kl, strict=True)
    return [
        {"id": prompt_id, "model": name, "prompt": prompt, "response": text, "completion_ids": tokens,
         "num_tokens": len(tokens), "kl_nats": nats}
        for (prompt_id, prompt), text, tokens, nats in rows
    ]  # fmt: skip


@torch.no_grad()
def _kl(policy: Policy, reference: Policy, prompt_ids: Tensor, prompt_mask: Tensor, responses: Responses) -> Tensor:
    """(B,) mean over the tokens of each response."""
    inputs = (prompt_ids, prompt_mask, responses.ids, responses.mask, 1.0)
    kl = policy(*inputs, ref_log_distribution=reference.log_distribution(*inputs)).kl
    assert kl is not None, "it was asked for"
    return masked_mean(kl, responses.mask, dim=1)


def measure(
    rows: list[dict[str, Any]],
    references: Sequence[str],
    reward: CompositeReward,
    sentiment: Reward | None,
    scorer: FrozenScorer,
) -> pa.Table:
    """The rows as the table of samples: with the reward and its parts, repetition, each level's nats, and what else
    the reward measured; with `sentiment` where there is one. `references` are the prompts' human texts.

    `token_nats` and `token_starts` say how surprising each of the scorer's tokens is, and at which character it begins.
    """
    prompts, texts = [row["prompt"] for row in rows], [row["response"] for row in rows]
    ids = [row.pop("completion_ids") for row in rows]
    scored = reward.score(prompts, texts, ids, reference=list(references))
    columns: dict[str, Any] = {"reward": scored.total.double().tolist()}
    if sentiment:
        columns["sentiment"] = sentiment(prompts, texts, ids)
    columns |= {**scored.extras, "repetition": [repetition(text) for text in texts]}
    surprise = scorer.score(prompts, texts, strict_boundary=False)
    columns |= {
        f"{level}_nats": [float(text.levels[i]) for text in surprise]
        for i, level in enumerate(("word", "phrase", "sentence"), start=1)
    }
    columns |= {f"rewards/{name}": part.double().tolist() for name, part in scored.components.items()}
    table = pa.Table.from_pylist(rows).set_column(
        4, "num_tokens", pa.array([r["num_tokens"] for r in rows], pa.int32())
    )
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.float64()))
    starts = pa.array([[first for first, _ in text.offsets] for text in surprise], pa.list_(pa.int32()))
    nats = pa.array([text.nats.tolist() for text in surprise], pa.list_(pa.float32()))
    return table.append_column("token_starts", starts).append_column("token_nats", nats)


def summarise(tables: Mapping[str, pa.Table], seed: int) -> dict[str, Any]:
    """reports/eval.json: each model's measures, and its paired differences to the SFT model with 95 % intervals."""
    models = {name: _model_summary(table, seed) for name, table in tables.items()}
    paired = {
        name: {
            key: paired_difference(_values(table, key), _values(tables[REFERENCE], key), seed)
            for key in PAIRED
            if key == "length" or key in table.column_names
        }
        for name, table in tables.items()
        if name != REFERENCE
    }
    num_prompts = len(tables[REFERENCE])
    return {
        "models": models,
        "paired": paired,
        "reference": REFERENCE,
        "num_prompts": num_prompts,
        "confidence": CONFIDENCE,
    }


class _Texts(Sequence[str]):
    """A column of texts, each read when it is asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        return self._column[index].as_py()


def _values(table: pa.Table, key: str) -> list[float]:
    return table["num_tokens" if key == "length" else key].to_pylist()


def _model_summary(table: pa.Table, seed: int) -> dict[str, Any]:
    texts = _Texts(table["response"])

    def mean(key: str) -> float:
        values = _values(table, key)
        return sum(values) / len(values)

    parts = [name for name in table.column_names if name.startswith("rewards/")]
    summaries = [key for key in ("reward", "improvement_pct") if key in table.column_names]
    means = [key for key in ("sentiment", "overlap") if key in table.column_names]
    return {
        **{key: summary(_values(table, key), seed) for key in summaries},
        "components": {name.removeprefix("rewards/"): mean(name) for name in parts},
        **{key: mean(key) for key in means},
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "vocabulary": vocabulary(texts),
        "repetition": mean("repetition"),
        "self_bleu": self_bleu(texts, seed),
        "length": mean("length"),
        "kl_nats": mean("kl_nats"),
        "perplexity": {level: _perplexity(mean(f"{level}_nats")) for level in ("word", "phrase", "sentence")},
    }


def _perplexity(nats: float) -> float:
    return float(torch.tensor(nats, dtype=torch.float64).exp())
