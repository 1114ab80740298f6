import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from triplex.rewards.maps import MapConfig

MAP: TypeAdapter[Any] = TypeAdapter(MapConfig)
OWN = [[1.0, 0.25], [3.0, 1.0]]


def values(improvements: list[float], **config: Any) -> list[float]:
    return MAP.validate_python(config).apply(torch.tensor(improvements, dtype=torch.float32)).tolist()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("default", {-5: 0, 0: 0, 0.04: 0, 0.06: 0.2, 0.49: 0.2, 0.6: 0.5, 1: 0.7, 1.9: 0.7, 2: 0.9, 3: 1, 80: 1}),
        ("vrcli", {-5: 0, 0: 0, 0.04: 0, 0.06: 0.5, 0.9: 0.5, 1: 0.9, 1.9: 0.9, 2: 1, 80: 1}),
        (OWN, {-5: 0, 0.99: 0, 1: 0.25, 2.99: 0.25, 3: 1, 80: 1}),
    ],
)
def test_steps_by_hand(steps: Any, expected: dict[float, float]) -> None:
    assert values(list(expected), kind="steps", steps=steps) == pytest.approx(list(expected.values()))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # from 0.5 at 0.05 to 0.9 at 1: half way 0.7 at 0.525
        ("vrcli", {-5: 0, 0: 0, 0.025: 0.25, 0.05: 0.5, 0.525: 0.7, 1: 0.9, 1.5: 0.95, 2: 1, 80: 1}),
        ("default", {0.025: 0.1, 0.275: 0.35, 0.75: 0.6, 1.5: 0.8, 2.5: 0.95, 9: 1}),
        (OWN, {-5: 0, 0.5: 0.125, 1: 0.25, 2: 0.625, 3: 1, 80: 1}),
    ],
)
def test_interpolated_by_hand(steps: Any, expected: dict[float, float]) -> None:
    assert values(list(expected), kind="interpolated", steps=steps) == pytest.approx(list(expected.values()))


def test_linear_by_hand() -> None:
    found = values([-9, -2, 0, 1, 4, 9], kind="linear", per_pct=0.25, low=-1.0, high=1)
    assert found == [-1, -0.5, 0, 0.25, 1, 1]


def test_identity_is_the_improvement() -> None:
    assert values([-300, 0, 0.125, 99], kind="identity") == [-300, 0, 0.125, 99]


@pytest.mark.parametrize(
    ("config", "threshold"),
    [
        ({"kind": "steps", "steps": "default"}, 0.05),
        ({"kind": "interpolated", "steps": "vrcli"}, 0.05),
        ({"kind": "steps", "steps": OWN}, 1.0),
        ({"kind": "linear", "per_pct": 1.0, "low": 0.0, "high": 1.0}, math.inf),
        ({"kind": "identity"}, math.inf),
    ],
)
def test_the_threshold_is_the_first_step(config: dict[str, Any], threshold: float) -> None:
    assert MAP.validate_python(config).threshold() == threshold


@pytest.mark.parametrize("kind", ["steps", "interpolated"])
@pytest.mark.parametrize(
    ("steps", "said"),
    [
        pytest.param([[1.0, 0.5], [0.5, 1.0]], r"thresholds \[1.0, 0.5\] must be above 0 and ascend", id="unsorted"),
        pytest.param([[1.0, 0.5], [1.0, 1.0]], "must be above 0 and ascend, none twice", id="duplicate"),
        pytest.param([[0.0, 0.5], [1.0, 1.0]], "must be above 0", id="zero"),
        pytest.param([[-1.0, 0.5]], "must be above 0", id="negative"),
        pytest.param([[1.0, 0.5], [2.0, 0.25]], r"rewards \[0.5, 0.25\] fall somewhere", id="falling"),
        pytest.param([], "no steps; give", id="none"),
        pytest.param([[1.0]], "at least 2 items", id="no-reward"),
        pytest.param([[1.0, 0.5, 2.0]], "at most 2 items", id="three-numbers"),
        pytest.param([[1.0, math.nan]], "finite number", id="nan"),
        pytest.param([["1", 0.5]], "valid number", id="str"),
        pytest.param("vcrli", "'default' or 'vrcli'", id="misspelt"),
    ],
)
def test_bad_40_steps_that_are_no_map_are_refused(kind: str, steps: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MAP.validate_python({"kind": kind, "steps": steps})


def test_equal_rewards_of_two_steps_are_allowed() -> None:
    assert values([1, 2], kind="steps", steps=[[1.0, 0.5], [2.0, 0.5]]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"kind": "linear", "per_pct": 0.0, "low": -1.0, "high": 1.0}, "greater than 0"),
        ({"kind": "linear", "per_pct": 1.0, "low": 1.0, "high": 1.0}, "low = 1 is not below high = 1"),
        ({"kind": "linear", "per_pct": 1.0, "low": 2.0, "high": -1.0}, "low = 2 is not below high = -1"),
        ({"kind": "linear", "per_pct": 1.0}, "low\n  Field required"),
        ({"kind": "identity", "steps": "default"}, "Extra inputs"),
        ({"kind": "step", "steps": "default"}, "'steps', 'interpolated', 'linear', 'identity'"),
    ],
)
def test_bad_40_other_maps_that_are_none_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MAP.validate_python(config)
