import math
import random
from functools import partial

import pytest
import torch
from torch import Tensor

from triplex.perplexity.levels import (
    DEFAULT_POOLS,
    PLAIN_POOLS,
    Pool,
    Pools,
    Units,
    cvar_pool,
    level_nats,
    lme_pool,
    mean_pool,
    micro_pool,
)

CVAR, LME = partial(cvar_pool, q=0.5), partial(lme_pool, lam=1.0)
POOLS = {"mean": mean_pool, "micro": micro_pool, "cvar": CVAR, "lme": LME}

Text = list[list[list[float]]]  # sentences of words of tokens' nats


def units_of(texts: list[Text]) -> tuple[Tensor, Units]:
    """The flat form of nested lists."""
    nats: list[float] = []
    word: list[int] = []
    sentence: list[int] = []
    text: list[int] = []
    for number, sentences in enumerate(texts):
        for words in sentences:
            for tokens in words:
                nats += tokens
                word += [len(sentence)] * len(tokens)
                sentence.append(len(text))
            text.append(number)
    as_index = partial(torch.tensor, dtype=torch.int64)
    return torch.tensor(nats), Units(as_index(word), as_index(sentence), as_index(text), len(texts))


def levels_of(texts: list[Text], pools: Pools) -> list[list[float]]:
    return level_nats(*units_of(texts), pools).tolist()


# four words in one sentence; word means 1, 3, 3, 8
FOUR_WORDS: Text = [[[1.0], [2.0, 4.0], [3.0], [8.0]]]
# windows of 2: 7/3, 3, 5.5; of 3: 10/4, 17/4; of 4: 18/5
TWO_SENTENCES: Text = [[[1.0, 3.0], [2.0]], [[6.0]]]


@pytest.mark.parametrize(
    ("pool", "word", "phrase"),
    [
        (mean_pool, 15 / 4, ((7 / 3 + 3 + 5.5) / 3 + (2.5 + 4.25) / 2 + 3.6) / 3),
        (micro_pool, 18 / 5, ((7 + 9 + 11) / 8 + (10 + 17) / 8 + 18 / 5) / 3),
        # half of 4 words: the worst 2; of 3 windows: the worst and half of the next; of 2: the worst; of 1: itself
        (CVAR, (8 + 3) / 2, ((5.5 + 0.5 * 3) / 1.5 + 4.25 + 3.6) / 3),
        (
            LME,
            math.log((math.e + 2 * math.e**3 + math.e**8) / 4),
            (
                math.log((math.exp(7 / 3) + math.exp(3) + math.exp(5.5)) / 3)
                + math.log((math.exp(2.5) + math.exp(4.25)) / 2)
                + 3.6
            )
            / 3,
        ),
    ],
    ids=POOLS.keys(),
)
def test_by_hand_four_words(pool: Pool, word: float, phrase: float) -> None:
    ((token_level, word_level, phrase_level, sentence_level),) = levels_of([FOUR_WORDS], Pools(pool, pool, pool))
    assert token_level == pytest.approx(3.6)
    assert word_level == pytest.approx(word)
    assert phrase_level == pytest.approx(phrase)
    assert sentence_level == pytest.approx(3.6)


@pytest.mark.parametrize(
    ("pool", "sentence"),
    [(mean_pool, 4.0), (micro_pool, 3.0), (CVAR, 6.0), (LME, math.log((math.e**2 + math.e**6) / 2))],
    ids=POOLS.keys(),
)
def test_by_hand_two_sentences(pool: Pool, sentence: float) -> None:
    """Sentence means 2 and 6; the only window inside a sentence is (2, 2): mean 2."""
    ((token_level, word_level, phrase_level, sentence_level),) = levels_of(
        [TWO_SENTENCES], Pools(mean_pool, pool, pool)
    )
    assert (token_level, word_level) == (pytest.approx(3.0), pytest.approx(10 / 3))
    assert phrase_level == pytest.approx(2.0)
    assert sentence_level == pytest.approx(sentence)


def slow_pool(kind: str, nats: list[float], num_tokens: list[int]) -> float:
    if kind == "mean":
        return sum(nats) / len(nats)
    if kind == "micro":
        return sum(n * k for n, k in zip(nats, num_tokens, strict=True)) / sum(num_tokens)
    if kind == "lme":
        return math.log(sum(math.exp(n) for n in nats) / len(nats))
    left, total = 0.5 * len(nats), 0.0
    for value in sorted(nats, reverse=True):
        total += value * min(1.0, max(0.0, left))
        left -= 1
    return total / (0.5 * len(nats))


def slow_levels(text: Text, kind: str) -> list[float]:
    """The definitions, word for word, in plain loops."""
    tokens = [nats for sentence in text for word in sentence for nats in word]
    if not tokens:
        return [0.0] * 4
    words = [word for sentence in text for word in sentence]
    word_level = slow_pool(kind, [sum(w) / len(w) for w in words], [len(w) for w in words])
    by_size = []
    for size in (2, 3, 4):
        windows = []
        for sentence in text:
            for start in range(len(sentence) - size + 1):
                windows.append([nats for word in sentence[start : start + size] for nats in word])
        if windows:
            by_size.append(slow_pool(kind, [sum(w) / len(w) for w in windows], [len(w) for w in windows]))
    whole = [[nats for word in sentence for nats in word] for sentence in text]
    return [
        sum(tokens) / len(tokens),
        word_level,
        sum(by_size) / len(by_size) if by_size else word_level,
        slow_pool(kind, [sum(s) / len(s) for s in whole], [len(s) for s in whole]),
    ]


def random_texts(seed: int, num_texts: int) -> list[Text]:
    draw = random.Random(seed)

    def word() -> list[float]:
        return [draw.expovariate(0.3) for _ in range(draw.randint(1, 4))]

    return [
        [[word() for _ in range(draw.randint(1, 9))] for _ in range(draw.choice([0, 1, 1, 2, 5]))]
        for _ in range(num_texts)
    ]


@pytest.mark.parametrize("kind", POOLS)
def test_against_plain_loops(kind: str) -> None:
    texts = random_texts(1, 60)
    got = levels_of(texts, Pools(POOLS[kind], POOLS[kind], POOLS[kind]))
    for text, levels in zip(texts, got, strict=True):
        assert levels == pytest.approx(slow_levels(text, kind), rel=1e-6)  # the nats are float32


@pytest.mark.parametrize("kind", POOLS)
def test_a_text_alone_among_others_and_in_another_order_gives_the_same_bits(kind: str) -> None:
    texts, pools = random_texts(2, 30), Pools(POOLS[kind], POOLS[kind], POOLS[kind])
    together = levels_of(texts, pools)
    assert levels_of(texts[::-1], pools) == together[::-1]
    assert [levels_of([text], pools)[0] for text in texts] == together


@pytest.mark.parametrize("kind", POOLS)
def test_equal_nats_give_that_number_on_every_level(kind: str) -> None:
    text = [[[2.5] * 3, [2.5], [2.5] * 2], [[2.5], [2.5]]]
    assert levels_of([text], Pools(POOLS[kind], POOLS[kind], POOLS[kind])) == [pytest.approx([2.5] * 4)]


@pytest.mark.parametrize("pools", [DEFAULT_POOLS, PLAIN_POOLS, Pools(LME, LME, LME), Pools(micro_pool, CVAR, CVAR)])
def test_edges_have_defined_values(pools: Pools) -> None:
    empty, one_token, one_word, no_window = [], [[[7.0]]], [[[1.0, 5.0]]], [[[1.0]], [[3.0]]]
    got = levels_of([empty, one_token, empty, one_word, no_window], pools)
    assert got[0] == got[2] == [0.0] * 4
    assert got[1] == pytest.approx([7.0] * 4)
    assert got[3] == pytest.approx([3.0] * 4)
    assert got[4][2] == got[4][1]  # no two words in one sentence: the phrase level is the word level
    assert level_nats(*units_of([]), pools).shape == (0, 4)


def test_cvar_lies_between_maximum_and_mean_and_does_not_jump() -> None:
    text = [[[nats]] for nats in (4.0, 1.0, 9.0, 2.0)]

    def sentence_level(q: float) -> float:
        return levels_of([text], Pools(mean_pool, mean_pool, partial(cvar_pool, q=q)))[0][3]

    assert sentence_level(1.0) == pytest.approx(4.0)
    assert sentence_level(0.01) == pytest.approx(9.0)
    assert sentence_level(0.25) == pytest.approx(9.0)
    assert sentence_level(0.5) == pytest.approx(6.5)
    assert sentence_level(0.5 + 1e-9) == pytest.approx(6.5, abs=1e-7)


def test_lme_goes_from_mean_to_maximum_and_does_not_overflow() -> None:
    text = [[[nats]] for nats in (4.0, 1.0, 900.0, 2.0)]

    def sentence_level(lam: float) -> float:
        return levels_of([text], Pools(mean_pool, mean_pool, partial(lme_pool, lam=lam)))[0][3]

    assert sentence_level(1e-7) == pytest.approx(907 / 4, rel=1e-3)
    assert sentence_level(100.0) == pytest.approx(900.0 - math.log(4) / 100)


def test_one_rare_word_does_not_swamp_a_level() -> None:
    """A word of 14 nats has a perplexity of 1.2 million; the level moves by its share of the nats."""
    plain: Text = [[[2.0]] * 19 + [[14.0]]]
    word_level = levels_of([plain], PLAIN_POOLS)[0][1]
    assert math.exp(word_level) == pytest.approx(math.exp((19 * 2 + 14) / 20))


def test_planted_faults_move_the_levels_differently() -> None:
    """A rare word shows in phrases and words, a bad sentence in sentences, and the plain profile hardly tells."""
    sound: Text = [[[3.0] for _ in range(8)] for _ in range(8)]
    rare_words: Text = [[[3.0] for _ in range(7)] + [[7.0]] for _ in range(8)]  # 32 nats more, spread out
    bad_sentence: Text = [[[3.0] for _ in range(8)] for _ in range(7)] + [[[7.0] for _ in range(8)]]  # 32 nats more
    base, spread, lump = levels_of([sound, rare_words, bad_sentence], DEFAULT_POOLS)
    assert spread[0] - base[0] == pytest.approx(lump[0] - base[0])  # tokens see no difference
    assert spread[2] - base[2] > 1.5 * (spread[3] - base[3])
    assert lump[3] - base[3] > 1.5 * (spread[3] - base[3])
    plain = levels_of([rare_words, bad_sentence], PLAIN_POOLS)
    assert plain[0][3] == pytest.approx(plain[1][3])
