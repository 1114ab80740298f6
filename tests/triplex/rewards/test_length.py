from typing import Any

import pytest
from pydantic import ValidationError

from triplex.rewards.length import LengthConfig, LengthReward


def reward(min_tokens: int, max_tokens: int, *lengths: int) -> list[float]:
    band = LengthReward(LengthConfig(weight=1.0, min_tokens=min_tokens, max_tokens=max_tokens))
    return band([""] * len(lengths), [""] * len(lengths), [[5] * length for length in lengths])


def test_by_hand() -> None:
    #            none  half  a quarter missing  the band's ends   a tenth over  twice  far above
    lengths = (0, 10, 15, 20, 40, 44, 80, 1000)
    assert reward(20, 40, *lengths) == pytest.approx([-1.0, -0.5, -0.25, 0.0, 0.0, -0.1, -1.0, -1.0])


def test_without_a_minimum_nothing_is_too_short() -> None:
    assert reward(0, 4, 0, 1, 4, 6) == [0.0, 0.0, 0.0, -0.5]


def test_band_of_one_length() -> None:
    assert reward(4, 4, 3, 4, 5) == [-0.25, 0.0, -0.25]


def test_never_rises_away_from_the_band() -> None:
    values = reward(20, 40, *range(100))
    assert values[:21] == sorted(values[:21])
    assert values[40:] == sorted(values[40:], reverse=True)
    assert all(-1 <= value <= 0 for value in values)


def test_tokens_count_not_characters() -> None:
    band = LengthReward(LengthConfig(weight=1.0, min_tokens=2, max_tokens=4))
    assert band(["p"] * 2, ["a long text of many characters", ""], [[1, 2, 3], [0]]) == [0.0, -0.5]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"min_tokens": 5}, "min_tokens = 5 is above max_tokens = 4", id="bad-40-order"),
        pytest.param({"max_tokens": 0}, "greater than or equal to 1", id="bad-40-max-0"),
        pytest.param({"min_tokens": -1}, "greater than or equal to 0", id="bad-40-min-below-0"),
        pytest.param({"weight": -0.5}, "greater than or equal to 0", id="bad-40-weight-below-0"),
        pytest.param({"weight": float("nan")}, "greater than or equal to 0|finite number", id="bad-40-weight-nan"),
    ],
)
def test_impossible_bands_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LengthConfig(**{"weight": 1.0, "min_tokens": 2, "max_tokens": 4} | values)
