import pytest

from triplex.rewards.repetition import RepetitionConfig, RepetitionReward


def reward(ngram_size: int, *texts: str) -> list[float | None]:
    config = RepetitionConfig(weight=1.0, ngram_size=ngram_size)
    return RepetitionReward(config)(["The tea the tea"] * len(texts), texts, [[]] * len(texts))


def test_bigrams_by_hand() -> None:
    # ab ba ab ba ab: 2 of 5 are different; no pair twice: 3 of 3
    assert reward(2, "a b a b a b", "a b c d") == pytest.approx([-0.6, 0.0])


def test_words_by_hand() -> None:
    # the the tea: 2 of 3 are different; case and punctuation are no difference
    assert reward(1, "the the tea", "Tea, tea! TEA.") == pytest.approx([-1 / 3, -2 / 3])


def test_more_of_the_same_costs_more() -> None:
    values = reward(2, *("good tea " * count for count in range(1, 30)))
    assert values == sorted(values, key=lambda value: -(value or 0))
    assert values[0] == 0
    assert -1 < (values[-1] or 0) < -0.9


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


def test_the_prompt_does_not_count() -> None:
    rewarded = RepetitionReward(RepetitionConfig(weight=1.0, ngram_size=2))
    assert rewarded(["good tea"], [" good tea"], [[]]) == [0.0]
