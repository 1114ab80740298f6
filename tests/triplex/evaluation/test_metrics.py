import math
import random

import pytest

from triplex.evaluation.metrics import (
    distinct_n,
    distinct_n_without_each,
    lengths,
    repetition,
    self_bleu,
    vocabulary,
    words,
)

TEXTS = [" ".join(random.Random(seed).choices(["red", "green", "blue", "black", "white"], k=7)) for seed in range(12)]


def naive_distinct(texts: list[str], n: int) -> float:
    grams = [" ".join(text.split()[i : i + n]) for text in texts for i in range(len(text.split()) - n + 1)]
    return len(set(grams)) / len(grams)


# words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't STOP; the café’s open.", ["don't", "stop", "the", "café’s", "open"]),
        ("snake_case 3.14 'quoted'", ["snake", "case", "3", "14", "quoted"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Straße Ω Ёлка 東京", ["straße", "ω", "ёлка", "東京"]),
        ("", []),
        ("?! … 😀 __", []),
    ],
)
def test_words_are_lower_cased_letters_marks_and_digits_of_any_script(text, expected):
    assert words(text) == expected


def test_a_combining_accent_stays_in_its_word():
    assert words("cafe\u0301 noir") == ["cafe\u0301", "noir"]


# distinct-n


def test_distinct_by_hand():
    texts = ["a b a", "b a"]  # words a b a b a; pairs ab, ba, ba
    assert distinct_n(texts, 1) == pytest.approx(2 / 5)
    assert distinct_n(texts, 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_against_plain_loops(n):
    assert distinct_n(TEXTS, n) == pytest.approx(naive_distinct(TEXTS, n))


def test_distinct_ignores_order_case_and_punctuation():
    changed = [text.upper().replace(" ", ", ") + "!" for text in reversed(TEXTS)]
    assert distinct_n(changed, 2) == distinct_n(TEXTS, 2)


@pytest.mark.parametrize("texts", [[], [""], ["...", "😀"], ["alone", "lonely"]])
def test_distinct_is_zero_without_an_ngram(texts):
    assert distinct_n(texts, 2) == 0.0


def test_without_each_by_hand():
    # without "a b a": pair ba; without "b a": ab, ba; all different
    assert distinct_n_without_each(["a b a", "b a"], 1) == pytest.approx([2 / 2, 2 / 3])


@pytest.mark.parametrize("n", [1, 2])
def test_without_each_against_leaving_each_out(n):
    left_out = [naive_distinct(TEXTS[:i] + TEXTS[i + 1 :], n) for i in range(len(TEXTS))]
    assert distinct_n_without_each(TEXTS, n) == pytest.approx(left_out)


def test_without_each_follows_a_permutation():
    assert distinct_n_without_each(TEXTS[::-1], 2) == distinct_n_without_each(TEXTS, 2)[::-1]


def test_without_each_edges():
    assert distinct_n_without_each([], 2) == []
    assert distinct_n_without_each(["only one text"], 2) == [0.0]


# vocabulary and lengths


def test_vocabulary_and_lengths_by_hand():
    texts = ["The cat, the hat", "A cat!", ""]
    assert vocabulary(texts) == 4
    assert lengths(texts) == [4, 2, 0]


def test_vocabulary_and_lengths_against_split():
    assert vocabulary(TEXTS) == len(set(" ".join(TEXTS).split()))
    assert lengths(TEXTS) == [len(text.split()) for text in TEXTS]


def test_vocabulary_ignores_order_and_repeats():
    assert vocabulary(TEXTS[::-1] * 3) == vocabulary(TEXTS)


def test_vocabulary_and_lengths_of_nothing():
    assert (vocabulary([]), lengths([])) == (0, [])


# repetition


def test_repetition_by_hand():
    assert repetition("so good so good so") == pytest.approx(1 - 2 / 5)
    assert repetition("so good so good so", 2) == pytest.approx(1 - 2 / 4)


@pytest.mark.parametrize("text", TEXTS[:4])
def test_repetition_is_one_minus_a_lone_texts_distinct(text):
    assert repetition(text, 2) == pytest.approx(1 - naive_distinct([text], 2))


def test_repetition_ignores_case_and_rises_with_a_copy():
    assert repetition("Red red BLUE") == repetition("red RED blue")
    assert repetition("red blue red blue") > repetition("red blue")


@pytest.mark.parametrize(("text", "n"), [("", 1), ("?!", 1), ("one", 2), ("all words differ", 1)])
def test_repetition_is_zero_where_nothing_repeats(text, n):
    assert repetition(text, n) == 0.0


# self-BLEU


def naive_bleu(text: str, references: list[str]) -> float:
    """BLEU-4 of Papineni 2002 for texts of at least four words, each order with a hit."""
    hypothesis, others = text.split(), [reference.split() for reference in references]
    logs = 0.0
    for n in range(1, 5):
        grams = [tuple(hypothesis[i : i + n]) for i in range(len(hypothesis) - n + 1)]
        hits = 0
        for gram in set(grams):
            most = max(sum(tuple(o[i : i + n]) == gram for i in range(len(o))) for o in others)
            hits += min(grams.count(gram), most)
        logs += math.log(hits / len(grams)) / 4
    closest = min((abs(len(o) - len(hypothesis)), len(o)) for o in others)[1]
    return math.exp(logs + min(0.0, 1 - closest / len(hypothesis)))


def test_self_bleu_by_hand():
    # precisions 3/4, 2/3, 1/2, and 0/1 smoothed to 1/2; both ways the same
    assert self_bleu(["a b c d", "a b c e"], seed=0) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_self_bleu_against_the_formula():
    texts = ["a b c d e f", "a b c d x y", "z a b c d e", "a b c d e f g h"]
    expected = sum(naive_bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)) / 4
    assert self_bleu(texts, seed=0) == pytest.approx(expected)


def test_self_bleu_ignores_case_and_order_and_depends_on_the_seed_alone():
    assert self_bleu([text.upper() for text in TEXTS[::-1]], seed=1) == pytest.approx(self_bleu(TEXTS, seed=2))
    assert self_bleu(TEXTS, seed=1, num_references=3) == self_bleu(TEXTS, seed=1, num_references=3)
    assert self_bleu(TEXTS, seed=1, num_references=3) != self_bleu(TEXTS, seed=2, num_references=3)


def test_self_bleu_edges():
    assert self_bleu([], seed=0) == 0.0
    assert self_bleu(["alone"], seed=0) == 0.0
    assert self_bleu(["", ""], seed=0) == 0.0
    assert self_bleu(["the same words again"] * 5, seed=0) == 1.0
    assert self_bleu(["one two three four five", "six seven eight nine ten"], seed=0) < 0.1
