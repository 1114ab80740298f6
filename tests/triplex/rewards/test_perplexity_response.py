import math
from typing import Any, Literal

import pytest
import torch
from pydantic import ValidationError

from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.perplexity_response import ResponsePerplexity, ResponseTarget

PROMPT, COMPLETION = "The tea", " kettle boils fast. It is good!"
WEIGHTS = (0.2, 0.3, 0.5)
Shape = Literal["band", "clipped"]


def reward(scorer: FrozenScorer, shape: Shape, shift: tuple[float, ...], width: float = 0.25) -> float:
    """The reward where human text lies `shift` (word, phrase, sentence) below the completion's own nats."""
    own = scorer.level_nats([PROMPT], [COMPLETION])[0, 1:]
    target = ResponsePerplexity(scorer, own - torch.tensor(shift), torch.full((3,), width), WEIGHTS, shape)
    (value,) = target([PROMPT], [COMPLETION], [[5, 0]])
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
        ((-9.0, -9.0, -9.0), -1.0),
    ],
)
def test_band_by_hand(scorer: FrozenScorer, shift: tuple[float, ...], expected: float) -> None:
    assert reward(scorer, "band", shift) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ((0.0, 0.0, 0.0), 0.0),
        ((-0.5, -3.0, -9.0), 0.0),  # likelier than human text earns nothing
        ((0.5, 0.0, 0.0), 1 - math.exp(0.2 * 0.5)),  # as much less likely as a perplexity exp(0.1) times as high
        ((0.1, -0.4, 0.5), 1 - math.exp(0.2 * 0.1 - 0.3 * 0.4 + 0.5 * 0.5)),
        ((9.0, 9.0, 9.0), -1.0),
    ],
)
@pytest.mark.parametrize("width", [0.25, 5.0])
def test_clipped_by_hand(scorer: FrozenScorer, shift: tuple[float, ...], expected: float, width: float) -> None:
    """The width is the band's alone."""
    assert reward(scorer, "clipped", shift, width) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", ["band", "clipped"])
def test_bad_24_an_empty_response_costs_all(scorer: FrozenScorer, shape: Shape) -> None:
    """Its nats are 0 on every level: a band around 0, or a clip above, would call it perfect."""
    target = ResponsePerplexity(scorer, torch.zeros(3), torch.full((3,), 20.0), WEIGHTS, shape)
    values = target([PROMPT, PROMPT], ["", COMPLETION], [[0], [5, 0]])
    assert values[0] == -1.0
    assert values[1] == (0.0 if shape == "band" else -1.0)


def test_a_response_that_melts_into_its_prompt_is_scored_as_it_was_sampled(scorer: FrozenScorer) -> None:
    expected = scorer.level_nats(["The tea"], ["kettle"], strict_boundary=False)[0, 1:]
    target = ResponsePerplexity(scorer, expected, torch.full((3,), 0.001), WEIGHTS)
    assert target(["The tea"], ["kettle"], [[5]]) == [0.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"band_width": 0.0}, "greater than 0", id="bad-40-no-width"),
        pytest.param({"band_width": -1.0}, "greater than 0", id="bad-40-negative-width"),
        pytest.param({"shape": "bnad"}, "'band' or 'clipped'", id="bad-36-shape"),
    ],
)
def test_impossible_targets_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ResponseTarget.model_validate({"kind": "response", "shape": "band", "band_width": 1.0} | change)
