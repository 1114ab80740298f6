"""How varied and how long texts are. Every function is a pure function of texts, defined for empty ones too."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import regex
from sacrebleu.metrics import BLEU

#: a word: letters, combining marks and digits of any script, apostrophes inside it ("don't" is one word)
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{M}\p{N}]+)*")


def words(text: str) -> list[str]:
    """The lower-cased words of a text, in order; punctuation, underscores and emoji are no words."""
    return WORD.findall(text.lower())


def ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of a text's words, in order; none where it has fewer than n words."""
    found = words(text)
    return zip(*(found[start:] for start in range(n)), strict=False)


def lengths(texts: Sequence[str]) -> list[int]:
    """Each text's number of words."""
    return [len(words(text)) for text in texts]


def vocabulary(texts: Sequence[str]) -> int:
    """The number of different words in all the texts together."""
    return len({word for text in texts for word in words(text)})


def repetition(text: str, n: int = 1) -> float:
    """1 - different / all n-grams of one text, in [0, 1); 0 where it has no n-gram (seq-rep-n, arXiv 1908.04319)."""
    return repeated_share(words(text), n)


def repeated_share(units: Sequence[Any], n: int) -> float:
    """1 - different / all n-grams of a sequence, in [0, 1); 0 where it has no n-gram."""
    found = list(zip(*(units[start:] for start in range(n)), strict=False))
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different / all n-grams over all the texts together, in (0, 1]; 0 where there is none (arXiv 1510.03055)."""
    counts = Counter(gram for text in texts for gram in ngrams(text, n))
    return _ratio(len(counts), counts.total())


def distinct_n_without_each(texts: Sequence[str], n: int) -> list[float]:
    """`distinct_n` of the texts but one, for each left out in turn: what a jackknife interval needs, in one pass."""
    grams = [Counter(ngrams(text, n)) for text in texts]
    num_texts_with = Counter(gram for counts in grams for gram in counts)
    num_all = sum(counts.total() for counts in grams)
    return [
        _ratio(len(num_texts_with) - sum(num_texts_with[gram] == 1 for gram in counts), num_all - counts.total())
        for counts in grams
    ]


def self_bleu(texts: Sequence[str], seed: int, num_references: int = 100) -> float:
    """Mean BLEU-4 of each text against others of the same set, in 0..1; 1: all alike (arXiv 1802.01886).

    The references are one sample drawn by `seed`, the text itself left out. Lower-cased, sacrebleu's tokens and
    smoothing, the order bounded by the text's length. 0 where there are fewer than two texts.
    """
    if len(texts) < 2:
        return 0.0
    size = min(len(texts), num_references + 1)
    sample = np.random.default_rng(seed).choice(len(texts), size=size, replace=False)
    bleu = BLEU(lowercase=True, effective_order=True)
    scores = []
    for index, text in enumerate(texts):
        references = [texts[other] for other in sample if other != index][:num_references]
        scores.append(bleu.sentence_score(text, references).score / 100)
    return min(1.0, float(np.mean(scores)))  # sacrebleu's 100 is 100.00000000000004


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
