"""Texts into words and sentences, and tokens into both, by character offsets.

A word starts where Unicode's default rules (UAX 29) start one, taking the whitespace before it along, as the tokens of
most vocabularies do. What is neither word nor whitespace joins the word before it. A sentence's first word starts where
the sentence does. So words tile a text, sentences tile it with whole words, and a token belongs to the word that
holds its first character, even where a token covers several words, part of a character, or nothing.
"""

from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain

import numpy as np
import regex
import sentencex
import torch

from triplex.perplexity.levels import Units

#: what a word and a sentence are depends on these
SEGMENTER = f"sentencex {version('sentencex')} (en), regex {version('regex')}"

# the start of a word with the whitespace before it; inside a run of ASCII letters and digits no word starts
_WORD = regex.compile(r"(?:(?<!\s)\s++)?\b(?:[A-Za-z0-9_]++|\w)", regex.WORD | regex.V1)
# sentencex 1.0.32 panics on a capital followed by whitespace of several bytes and a full stop
_PLAIN_SPACES = {code: " " for code in range(0x80, 0x3001) if chr(code).isspace()}


def segment(text: str) -> tuple[list[int], list[int]]:
    """(first character of each word, sentence of each word), both non-decreasing, at least one word, the first at 0.

    A sentence without a word (a rule, an ellipsis, blank lines) goes with the sentence before it.
    """
    starts: list[int] = []
    sentences: list[int] = []
    end = 0
    for number, sentence in enumerate(sentencex.segment("en", text.translate(_PLAIN_SPACES))):
        begin, end = end, end + len(sentence)
        words = [match.start() for match in _WORD.finditer(text, begin, end)]
        if words:
            words[0] = starts[-1] + len(text[starts[-1] : begin].rstrip()) if starts else 0
            starts += words
            sentences += [number] * len(words)
    assert end == len(text), "the sentences do not add up to the text"
    return starts or [0], sentences or [0]


def token_units(texts: Sequence[str], token_starts: Sequence[Sequence[int]]) -> Units:
    """The word of each token, given each text and the first character of each of its tokens.

    Words and sentences that hold no token are left out of the count.
    """
    segments = [segment(text) for text in texts]
    # one axis for all texts: each gets a stretch of it that is one longer than the text, for tokens at its very end
    offsets = np.cumsum([0, *(len(text) + 1 for text in texts)])[:-1]
    sentence_offsets = np.cumsum([0, *(sentences[-1] + 1 for _, sentences in segments)])[:-1]
    words = _on_one_axis([starts for starts, _ in segments], offsets)
    sentences = _on_one_axis([sentences for _, sentences in segments], sentence_offsets)
    tokens = _on_one_axis(token_starts, offsets)

    kept_words, word = np.unique(np.searchsorted(words, tokens, side="right") - 1, return_inverse=True)
    kept_sentences, sentence = np.unique(sentences[kept_words], return_inverse=True)
    text = np.searchsorted(sentence_offsets, kept_sentences, side="right") - 1

    token_text = np.repeat(np.arange(len(texts)), [len(starts) for starts in token_starts])
    assert np.array_equal(text[sentence[word]], token_text), "a token outside of its own text's words"
    assert (np.diff(word) >= 0).all(), "tokens out of order"
    return Units(torch.from_numpy(word), torch.from_numpy(sentence), torch.from_numpy(text), len(texts))


def _on_one_axis(positions: Sequence[Sequence[int]], offsets: np.ndarray) -> np.ndarray:
    lengths = [len(each) for each in positions]
    flat = np.fromiter(chain.from_iterable(positions), np.int64, sum(lengths))
    return flat + np.repeat(offsets, lengths)
