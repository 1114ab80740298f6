from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.perplexity import LevelWeights, MultiLevelPerplexityReward, PerplexityRewardConfig

PROMPT, COMPLETION = "The tea", " kettle boils fast. It is good!"


@pytest.fixture(scope="module")
def scorer(tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> FrozenScorer:
    return FrozenScorer(tiny_lm(seed=3), tiny_tokenizer)


def reward(scorer: FrozenScorer, shift: tuple[float, ...], width: float, weights: tuple[float, ...]) -> float:
    """The reward where the band's centre lies `shift` (word, phrase, sentence) below the completion's own nats."""
    own = scorer.level_nats([PROMPT], [COMPLETION])[0, 1:]
    band = MultiLevelPerplexityReward(scorer, own - torch.tensor(shift), torch.full((3,), width), weights)
    (value,) = band([PROMPT], [COMPLETION], [[5, 0]])
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ((0.0, 0.0, 0.0), 0.0),
        ((0.2, -0.2, 0.2), 0.0),  # inside on every level
        ((0.5, 0.0, 0.0), -0.2 * 0.25),  # a quarter of a nat above the band, on the word level
        ((-0.5, 0.0, 0.0), -0.2 * 0.25),  # as much below
        ((0.5, 0.75, -1.25), -(0.2 * 0.25 + 0.3 * 0.5 + 0.5 * 1.0)),
        ((9.0, 9.0, 9.0), -1.0),  # no more than 1
    ],
)
def test_by_hand(scorer: FrozenScorer, shift: tuple[float, ...], expected: float) -> None:
    assert reward(scorer, shift, 0.25, (0.2, 0.3, 0.5)) == pytest.approx(expected, abs=1e-5)


def test_an_empty_completion_has_no_perplexity(scorer: FrozenScorer) -> None:
    band = MultiLevelPerplexityReward(scorer, torch.full((3,), 5.0), torch.full((3,), 0.1), (0.2, 0.3, 0.5))
    values = band([PROMPT, PROMPT], ["", COMPLETION], [[0], [5, 0]])
    assert values[0] is None
    assert values[1] is not None


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param((0.0, 0.0, 0.0), id="bad-40-sum-0"),
        pytest.param((0.2, 0.3, 0.6), id="bad-40-sum-above-1"),
        pytest.param((-0.5, 0.5, 1.0), id="bad-40-negative"),
        pytest.param((float("nan"), 0.5, 0.5), id="bad-40-nan"),
    ],
)
def test_impossible_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match=r"they must sum to 1|greater than or equal to 0|finite number"):
        LevelWeights(word=weights[0], phrase=weights[1], sentence=weights[2])


def test_bad_40_band_without_width_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        PerplexityRewardConfig(weight=1.0, band_width=0.0, level_weights={"word": 1.0, "phrase": 0.0, "sentence": 0.0})
