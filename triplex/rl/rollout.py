"""Sampling responses. A row's draw depends on its own seed alone, not on its batch, its place or what ran before.

Legend: B prompts, G responses a prompt (group), P prompt, R response, N rows still sampled, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from triplex.models.causal import CausalLM
from triplex.runs.errors import InputError

_BLOCK = 64  # tokens whose probabilities are added up before a token is looked for among them
_LARGEST_U = 1 - 2**-53  # the float64 before 1
# rows leave the batch when one in so many has ended: moving the others' cache costs about a token, and on CUDA their
# steps are captured anew
_LEAVE_AT, _LEAVE_AT_ON_CUDA = 8, 2


class Responses(NamedTuple):
    """Sampled tokens, the end-of-text token counted, and their log-probabilities at the sampling temperature."""

    ids: Tensor  # (B*G, R); where the mask is False: the pad token
    mask: Tensor  # (B*G, R) bool
    logprobs: Tensor  # (B*G, R) float32 nats; 0 where the mask is False
    terminated: Tensor  # (B*G,) bool: ended by an end-of-text token, not by the limit
    values: Tensor | None = None  # (B*G, R) float32 of the state that predicts each token; 0 where the mask is False


def encode_prompts(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """(prompt_ids (B, P), prompt_mask (B, P) bool), padded on the left. InputError for a prompt without tokens."""
    rows = [_encode(tokenizer, repr(text), text) for text in prompts]
    width, pad = max(len(row) for row in rows), tokenizer.pad_token_id
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    return ids.to(device), (torch.arange(width) >= width - lengths[:, None]).to(device)


def check_prompts_fit(lm: CausalLM, tokenizer: Any, ids: Sequence[str], texts: Sequence[str],
                      max_new_tokens: int) -> None:  # fmt: skip
    """InputError naming the prompt (by its id) that has no token, or leaves the model no room for `max_new_tokens`."""
    lengths = [len(_encode(tokenizer, name, text)) for name, text in zip(ids, texts, strict=True)]
    longest = max(lengths, default=0)
    if lm.max_positions is not None and longest + max_new_tokens > lm.max_positions:
        raise InputError(
            f"prompt {ids[lengths.index(longest)]}",
            f"{longest} tokens, and {max_new_tokens} new ones do not fit into the model's {lm.max_positions}",
            "shorten the prompts (data.prompt_words) or lower max_new_tokens",
        )


def _encode(tokenizer: Any, name: str, text: str) -> list[int]:
    row = list(tokenizer.encode(text))
    if not row:
        raise InputError(f"prompt {name}", "has no tokens, so nothing predicts its first new one", "leave it out")
    return row


def uniforms(seeds: Sequence[int], num: int) -> Tensor:
    """(len(seeds), num) float64 in [0, 1): row i from the counter-based generator Philox under key seeds[i]."""
    rows = [np.random.Generator(np.random.Philox(key=seed)).random(num) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def sample_tokens(logits: Tensor, u: Tensor) -> Tensor:
    """The tokens of `draw_tokens` alone."""
    return draw_tokens(logits, u)[0]


def draw_tokens(logits: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens, their log-probabilities in nats), both (N,), from float32 logits (N, V) by inversion at u (N,) float64.

    A row's token is the first whose cumulative probability exceeds its u. Probabilities are float32 (one below 1e-45
    is none), sums of 64 of them too, what is summed up from these is float64: whole blocks first, then the block that
    u falls into, so that V values are read once and never stored in float64.
    """
    probabilities = torch.softmax(logits, -1)
    size = probabilities.shape[1]
    whole = size - size % _BLOCK
    blocks = probabilities[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1)
    if whole < size:
        blocks = torch.cat([blocks, probabilities[:, whole:].sum(1, keepdim=True)], 1)
    cumulative = blocks.cumsum(1, dtype=torch.float64)
    target = u[:, None] * cumulative[:, -1:]
    block = torch.searchsorted(cumulative, target, right=True)
    of_block = blocks.gather(1, block).double()
    # u inside the block; rounding may put it a little outside
    within = ((target - (cumulative.gather(1, block) - of_block)) / of_block).clamp(0, _LARGEST_U)
    places = block * _BLOCK + torch.arange(_BLOCK, device=block.device)
    some = probabilities.gather(1, places.clamp(max=size - 1))
    some = some.masked_fill(places >= size, 0).cumsum(1, dtype=torch.float64)
    place = torch.searchsorted(some, within * some[:, -1:], right=True)
    tokens = block * _BLOCK + place
    return tokens.squeeze(1), probabilities.gather(1, tokens).squeeze(1).log()


@torch.no_grad()
def sample_responses(
    lm: CausalLM,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    seeds: Sequence[int],
    *,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    pad_id: int,
    value_head: nn.Module | None = None,
) -> Responses:
    """G = group_size responses for each prompt, from the full distribution; seeds has one entry a response (B*G).

    Each prompt is read once for its whole group. Rows that have ended leave the batch, an eighth of it at a time, on
    CUDA a half.
    `value_head` maps states (N, H) to values (N,) or (N, 1); they cost no pass of their own.
    """
    num, device = len(seeds), prompt_ids.device
    u = uniforms(seeds, max_new_tokens).T.contiguous().to(device)
    ends = torch.tensor(lm.eos_ids, device=device)
    ids = torch.full((max_new_tokens, num), pad_id, device=device)  # a step a row: written side by side
    logprobs, values = torch.zeros(max_new_tokens, num, device=device), torch.zeros(max_new_tokens, num, device=device)
    ended = torch.zeros(num, dtype=torch.bool, device=device)
    leave_at = _LEAVE_AT_ON_CUDA if device.type == "cuda" else _LEAVE_AT
    rows: Tensor | slice = slice(None)  # those still in the batch

    decoder = lm.decoder(prompt_ids, prompt_mask, group_size, max_new_tokens)
    states = decoder.prefill()
    for t in range(max_new_tokens):
        logits = lm.logits(states).float()
        tokens, drawn = draw_tokens(logits if temperature == 1 else logits / temperature, u[t, rows])
        ids[t, rows], logprobs[t, rows] = tokens, drawn
        if value_head is not None:
            values[t, rows] = value_head(states).float().reshape(-1)
        ended |= (tokens[:, None] == ends).any(1)
        num_ended = int(ended.sum())
        if num_ended == len(tokens) or t + 1 == max_new_tokens:
            break
        if num_ended * leave_at >= len(tokens):
            alive = (~ended).nonzero().squeeze(1)
            decoder.keep(alive)
            rows = alive if isinstance(rows, slice) else rows[alive]
            tokens, ended = tokens[alive], ended[alive]
        states = decoder.step(tokens)
    return _responses(ids[: t + 1].T, logprobs[: t + 1].T, values[: t + 1].T if value_head else None, ends, pad_id)


def _responses(ids: Tensor, logprobs: Tensor, values: Tensor | None, ends: Tensor, pad_id: int) -> Responses:
    """What was sampled (B*G, R), without what ended rows went on with."""
    is_end = torch.isin(ids, ends)
    mask = is_end.cumsum(1) - is_end.long() == 0
    return Responses(
        ids.masked_fill(~mask, pad_id).contiguous(),
        mask,
        logprobs.masked_fill(~mask, 0).contiguous(),
        (is_end & mask).any(1),
        None if values is None else values.masked_fill(~mask, 0).contiguous(),
    )


def decode(tokenizer: Any, responses: Responses) -> tuple[list[str], list[list[int]]]:
    """(texts without special tokens, ids without padding) of each response."""
    ids = [row[keep].tolist() for row, keep in zip(responses.ids.cpu(), responses.mask.cpu(), strict=True)]
    # transformers' tokenizers can take the space before a full stop away; what was sampled is what is scored
    verbatim = {"clean_up_tokenization_spaces": False} if hasattr(tokenizer, "clean_up_tokenization_spaces") else {}
    return [tokenizer.decode(row, skip_special_tokens=True, **verbatim) for row in ids], ids
