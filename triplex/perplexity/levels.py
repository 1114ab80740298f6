"""Log-probabilities into one number per level: pools over words, phrases and sentences.

Legend: B texts laid end to end, T tokens, W words, S sentences, U units of one kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = ("token", "word", "phrase", "sentence")
PHRASE_SIZES = (2, 3, 4)  # words in a window

#: (nats per token of each unit (U,), its tokens (U,), its text (U,) non-decreasing, B) -> (B,), undefined without unit
Pool = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Units:
    """Where each token belongs. Units nest: a token lies in one word, a word in one sentence, a sentence in one text.

    All three are int64, non-decreasing, and every word and sentence holds a token; only a text may be empty.
    """

    word: Tensor  # (T,) the word of each token
    sentence: Tensor  # (W,) the sentence of each word
    text: Tensor  # (S,) the text of each sentence
    num_texts: int


def mean_pool(nats: Tensor, num_tokens: Tensor, text: Tensor, num_texts: int) -> Tensor:
    """The plain mean over a text's units: short and long ones count alike."""
    return _total(nats, text, num_texts) / _total(torch.ones_like(nats), text, num_texts)


def micro_pool(nats: Tensor, num_tokens: Tensor, text: Tensor, num_texts: int) -> Tensor:
    """The mean weighted by tokens; over words or sentences this is the token level."""
    return _total(nats * num_tokens, text, num_texts) / _total(num_tokens, text, num_texts)


def cvar_pool(nats: Tensor, num_tokens: Tensor, text: Tensor, num_texts: int, *, q: float) -> Tensor:
    """The mean of the worst fraction `q` in (0, 1] of a text's units: conditional value at risk.

    With n units, the worst q n of them count, the last one by the part that remains; so q = 1 is the mean, q <= 1/n
    the maximum, and nothing jumps in between. Source: Rockafellar and Uryasev 2002, proposition 8.
    """
    by_nats = torch.sort(nats, descending=True, stable=True).indices
    order = by_nats[torch.sort(text[by_nats], stable=True).indices]  # by text, the worst unit first
    num_units = torch.bincount(text, minlength=num_texts)
    first = num_units.cumsum(0) - num_units
    rank = torch.arange(len(text), device=text.device) - first[text]  # `text` is sorted, so text[order] equals it
    budget = q * num_units.to(nats.dtype)
    share = (budget[text] - rank).clamp(0, 1)
    return _total(nats[order] * share, text, num_texts) / budget


def lme_pool(nats: Tensor, num_tokens: Tensor, text: Tensor, num_texts: int, *, lam: float) -> Tensor:
    """(1/lam) log mean exp(lam nats) over a text's units: from the mean (lam -> 0) to the maximum (lam -> inf)."""
    top = nats.new_full((num_texts,), -torch.inf).scatter_reduce(0, text, nats, "amax")
    return top + mean_pool(torch.exp(lam * (nats - top[text])), num_tokens, text, num_texts).log() / lam


class Pools(NamedTuple):
    """How each level gathers its units."""

    word: Pool
    phrase: Pool
    sentence: Pool


#: a tail for phrases and sentences, because the means of all levels over the same tokens are nearly one number
DEFAULT_POOLS = Pools(mean_pool, partial(cvar_pool, q=0.25), partial(cvar_pool, q=0.25))
PLAIN_POOLS = Pools(mean_pool, mean_pool, mean_pool)


def level_nats(nats: Tensor, units: Units, pools: Pools = DEFAULT_POOLS) -> Tensor:
    """Nats per token of each text on each of LEVELS, (B, 4) float64; the exponential is the level's perplexity.

    `nats` (T,) is -log p of each token. A text without a phrase window has its word level there; a text without a
    token has 0 on every level. A text's numbers do not depend on the other texts, to the last bit.
    """
    values, num_texts = nats.double(), units.num_texts
    word_sum, word_tokens = _gather(values, torch.ones_like(values), units.word, len(units.sentence))
    sentence_sum, sentence_tokens = _gather(word_sum, word_tokens, units.sentence, len(units.text))
    text_sum, text_tokens = _gather(sentence_sum, sentence_tokens, units.text, num_texts)
    text_of_word = units.text[units.sentence]

    word = pools.word(word_sum / word_tokens, word_tokens, text_of_word, num_texts)
    phrase = _phrase_level(word_sum, word_tokens, units.sentence, text_of_word, word, pools.phrase)
    sentence = pools.sentence(sentence_sum / sentence_tokens, sentence_tokens, units.text, num_texts)
    levels = torch.stack([text_sum / text_tokens, word, phrase, sentence], dim=1)
    return torch.where(text_tokens[:, None] > 0, levels, 0.0)


def _phrase_level(
    word_sum: Tensor, word_tokens: Tensor, sentence: Tensor, text: Tensor, word_level: Tensor, pool: Pool
) -> Tensor:
    """(B,) the mean over the window sizes that a text has; `word_level` (B,) where it has none."""
    num_texts = len(word_level)
    total, num_sizes = torch.zeros_like(word_level), torch.zeros_like(word_level)
    window_sum, window_tokens = word_sum, word_tokens
    for size in PHRASE_SIZES:
        window_sum = window_sum[:-1] + word_sum[size - 1 :]  # entry i is the window that starts at word i
        window_tokens = window_tokens[:-1] + word_tokens[size - 1 :]
        inside = sentence[: len(window_sum)] == sentence[size - 1 :]
        owner = text[: len(window_sum)][inside]
        level = pool((window_sum / window_tokens)[inside], window_tokens[inside], owner, num_texts)
        has_window = torch.bincount(owner, minlength=num_texts) > 0
        total += torch.where(has_window, level, 0.0)
        num_sizes += has_window
    return torch.where(num_sizes > 0, total / num_sizes, word_level)


def _gather(sums: Tensor, num_tokens: Tensor, owner: Tensor, num_owners: int) -> tuple[Tensor, Tensor]:
    """Nats and tokens of each larger unit from those of the smaller ones."""
    return _total(sums, owner, num_owners), _total(num_tokens, owner, num_owners)


def _total(values: Tensor, owner: Tensor, num_owners: int) -> Tensor:
    return values.new_zeros(num_owners).index_add(0, owner, values)
