from typing import Any, Literal

import pytest
from pydantic import ValidationError

from triplex.rewards.repetition import RepetitionConfig, RepetitionReward


def reward(ngram_size: int, *texts: str) -> list[float]:
    """Of words; every completion has the same tokens, a lone one repeated."""
    config = RepetitionConfig(weight=1.0, unit="word", ngram_size=ngram_size)
    return RepetitionReward(config)(["The tea the tea"] * len(texts), texts, [[5, 5, 5]] * len(texts))


def token_reward(ngram_size: int, *ids: list[int]) -> list[float]:
    """Of tokens; every completion is the same text, a lone word repeated."""
    config = RepetitionConfig(weight=1.0, unit="token", ngram_size=ngram_size)
    return RepetitionReward(config)(["The tea the tea"] * len(ids), ["tea tea tea"] * len(ids), ids)


def test_bigrams_by_hand() -> None:
    # ab ba ab ba ab: 2 of 5 are different; no pair twice: 3 of 3
    assert reward(2, "a b a b a b", "a b c d") == pytest.approx([-0.6, 0.0])
    assert token_reward(2, [7, 8, 7, 8, 7, 8], [7, 8, 9, 10]) == pytest.approx([-0.6, 0.0])


def test_single_units_by_hand() -> None:
    # the the tea: 2 of 3 are different; case and punctuation are no difference
    assert reward(1, "the the tea", "Tea, tea! TEA.") == pytest.approx([-1 / 3, -2 / 3])
    assert token_reward(1, [5, 5, 6], [5, 5, 5], [0]) == pytest.approx([-1 / 3, -2 / 3, 0])


@pytest.mark.parametrize("unit", ["word", "token"])
def test_more_of_the_same_costs_more(unit: Literal["word", "token"]) -> None:
    config = RepetitionConfig(weight=1.0, unit=unit, ngram_size=2)
    counts = range(1, 30)
    values = RepetitionReward(config)(["p"] * 29, ["good tea " * n for n in counts], [[5, 6] * n for n in counts])
    assert values == sorted(values, reverse=True)
    assert values[0] == 0
    assert -1 < values[-1] < -0.9


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="bad-24-empty"),
        pytest.param("...!?,", id="bad-21-punctuation"),
        pytest.param("tea", id="bad-22-one-word"),
        pytest.param("👩‍👩‍👧 👍🏽", id="bad-20-emoji"),
        pytest.param("价格很好我喜欢", id="bad-20-cjk"),
    ],
)
def test_without_a_pair_nothing_is_repeated(text: str) -> None:
    assert reward(2, text) == [0.0]


@pytest.mark.parametrize("ids", [[], [0], [5]], ids=["none", "bad-24-end-at-once", "bad-22-one-token"])
def test_without_a_pair_of_tokens_nothing_is_repeated(ids: list[int]) -> None:
    assert token_reward(2, ids) == [0.0]


def test_tokens_find_what_has_no_words() -> None:
    """A policy that repeats punctuation repeats no word."""
    ids = [[3, 3, 3, 3, 3]]
    for unit, expected in (("word", 0.0), ("token", -0.75)):
        config = RepetitionConfig.model_validate({"weight": 1.0, "unit": unit, "ngram_size": 2})
        assert RepetitionReward(config)(["p"], ["!!!!!"], ids) == [expected]


def test_the_prompt_does_not_count() -> None:
    rewarded = RepetitionReward(RepetitionConfig(weight=1.0, unit="word", ngram_size=2))
    assert rewarded(["good tea"], [" good tea"], [[]]) == [0.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"ngram_size": 0}, "greater than or equal to 1", id="bad-40-ngram-0"),
        pytest.param({"unit": "char"}, "'word' or 'token'", id="bad-36-unit"),
        pytest.param({"weight": -0.5}, "greater than or equal to 0", id="bad-40-weight"),
    ],
)
def test_impossible_sections_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RepetitionConfig.model_validate({"weight": 1.0, "unit": "word", "ngram_size": 2} | change)
