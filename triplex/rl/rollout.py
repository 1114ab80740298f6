"""Sampling responses. A row's draw depends on its own seed alone, not on its batch, its place or what ran before.

Legend: B prompts, G responses a prompt (group), P prompt, R response, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from triplex.models.policy import position_ids
from triplex.runs.errors import InputError


class Responses(NamedTuple):
    """Sampled tokens, the end-of-text token counted, and their log-probabilities at the sampling temperature."""

    ids: Tensor  # (B*G, R); where the mask is False: the pad token
    mask: Tensor  # (B*G, R) bool
    logprobs: Tensor  # (B*G, R) float32 nats; 0 where the mask is False
    terminated: Tensor  # (B*G,) bool: ended by an end-of-text token, not by the limit


def encode_prompts(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """(prompt_ids (B, P), prompt_mask (B, P) bool), padded on the left."""
    encoded = tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")
    return encoded["input_ids"].to(device), encoded["attention_mask"].bool().to(device)


def check_prompts_fit(lm: Any, tokenizer: Any, prompts: Sequence[tuple[str, str]], max_new_tokens: int) -> None:
    """InputError when the longest of the prompts (id, text) leaves the model no room for `max_new_tokens`."""
    limit = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
    lengths = [len(ids) for ids in tokenizer([text for _, text in prompts])["input_ids"]]
    longest = max(lengths)
    if limit is not None and longest + max_new_tokens > limit:
        raise InputError(
            f"prompt {prompts[lengths.index(longest)][0]}",
            f"{longest} tokens, and {max_new_tokens} new ones do not fit into the model's {limit}",
            "shorten the prompts (data.prompt_words) or lower max_new_tokens",
        )


def uniforms(seeds: Sequence[int], num: int) -> Tensor:
    """(len(seeds), num) float64 in [0, 1): row i from the counter-based generator Philox under key seeds[i]."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(num) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def sample_tokens(logprobs: Tensor, u: Tensor) -> Tensor:
    """(B,) tokens from logprobs (B, V) by inversion: the first whose cumulative probability exceeds u (B,)."""
    cumulative = logprobs.double().exp().cumsum(-1)
    return torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True).squeeze(-1)


@torch.no_grad()
def sample_responses(
    lm: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    seeds: Sequence[int],
    *,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    eos_ids: Sequence[int],
    pad_id: int,
) -> Responses:
    """G = group_size responses for each prompt, from the full distribution; seeds has one entry a response (B*G).

    Each prompt is read once for its whole group. Rows that have ended leave the batch when half of it has.
    """
    num, device = len(seeds), prompt_ids.device
    ids = torch.full((num, max_new_tokens), pad_id, device=device)
    mask = torch.zeros(num, max_new_tokens, dtype=torch.bool, device=device)
    logprobs = torch.zeros(num, max_new_tokens, device=device)
    terminated = torch.zeros(num, dtype=torch.bool, device=device)
    u, ends = uniforms(seeds, max_new_tokens).to(device), torch.tensor(list(eos_ids), device=device)

    cache = DynamicCache(config=lm.config)
    logits = _forward(lm, prompt_ids, prompt_mask, position_ids(prompt_mask), cache).repeat_interleave(group_size, 0)
    cache.batch_repeat_interleave(group_size)
    seen = prompt_mask.repeat_interleave(group_size, 0)
    rows = torch.arange(num, device=device)  # the rows still in the batch
    for t in range(max_new_tokens):
        step = torch.log_softmax(logits.float() / temperature, -1)
        token = sample_tokens(step, u[rows, t])
        alive = ~terminated[rows]
        kept, kept_tokens = rows[alive], token[alive]
        ids[kept, t], mask[kept, t] = kept_tokens, True
        logprobs[kept, t] = step[alive].gather(-1, kept_tokens[:, None]).squeeze(-1)
        terminated[kept] = torch.isin(kept_tokens, ends)
        alive = ~terminated[rows]
        if t + 1 == max_new_tokens or not alive.any():
            break
        if alive.sum() * 2 <= len(rows):
            cache.batch_select_indices(alive.nonzero().squeeze(1))
            rows, token, seen = rows[alive], token[alive], seen[alive]
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
        logits = _forward(lm, token[:, None], seen, position_ids(seen)[:, -1:], cache)
    length = int(mask.sum(1).max())
    return Responses(ids[:, :length], mask[:, :length], logprobs[:, :length], terminated)


def decode(tokenizer: Any, responses: Responses) -> tuple[list[str], list[list[int]]]:
    """(texts without special tokens, ids without padding) of each response."""
    ids = [row[keep].tolist() for row, keep in zip(responses.ids.cpu(), responses.mask.cpu(), strict=True)]
    return tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), ids


def _forward(lm: Any, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Logits (B, V) after the last of `ids`; `cache` grows by them."""
    return lm(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
