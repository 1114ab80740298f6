import math

import pytest
import torch
from torch import Tensor

from triplex.perplexity.improvement import (
    STEPS,
    VRCLI_STEPS,
    WEIGHTS,
    Steps,
    improvement_pct,
    interpolated_reward,
    linear_reward,
    step_reward,
    weighted_perplexity,
    weighted_ppl_improvement_pct,
)

DEFAULT = WEIGHTS["default"]


def nats(*perplexities: float) -> Tensor:
    return torch.tensor([perplexities], dtype=torch.float64).log()


def test_the_worked_example_of_the_weighted_perplexity() -> None:
    assert weighted_perplexity(nats(45.23, 47.89, 51.21), DEFAULT).item() == pytest.approx(49.018)
    assert round(weighted_perplexity(nats(45.23, 47.89, 51.21), DEFAULT).item(), 2) == 49.02


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_the_weights_sum_to_one(weights: tuple[float, ...]) -> None:
    assert sum(weights) == pytest.approx(1)
    assert len(weights) == 3


def test_improvement_by_hand() -> None:
    """Perplexities fall to 90, 80 and 50 per cent: their weighted geometric mean is what remains."""
    got = improvement_pct(nats(100, 100, 100), nats(90, 80, 50), DEFAULT)
    assert got.item() == pytest.approx(100 * (1 - 0.9**0.2 * 0.8**0.3 * 0.5**0.5))
    assert improvement_pct(nats(100, 100, 100), nats(200, 200, 200), DEFAULT).item() == pytest.approx(-100)


def test_improvement_against_a_plain_loop() -> None:
    torch.manual_seed(0)
    before, after = 3 + torch.randn(20, 3, dtype=torch.float64), 3 + torch.randn(20, 3, dtype=torch.float64)
    for weights in WEIGHTS.values():
        got = improvement_pct(before, after, weights).tolist()
        for b, p, one in zip(before.tolist(), after.tolist(), got, strict=True):
            total = sum(
                w * (math.log(math.exp(x)) - math.log(math.exp(y))) for w, x, y in zip(weights, b, p, strict=True)
            )
            assert one == pytest.approx(100 * (1 - math.exp(-total)))


def test_improvement_does_not_depend_on_a_common_factor_or_on_the_other_rows() -> None:
    torch.manual_seed(1)
    before, after = torch.rand(6, 3).double() * 4, torch.rand(6, 3).double() * 4
    got = improvement_pct(before, after, DEFAULT)
    torch.testing.assert_close(improvement_pct(before + 1, after + 1, DEFAULT), got)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(improvement_pct(before[order], after[order], DEFAULT), got[order])


def test_improvement_of_equal_texts_is_zero_and_a_small_one_keeps_its_digits() -> None:
    same = nats(20, 30, 40)
    assert improvement_pct(same, same, DEFAULT).item() == 0
    assert weighted_ppl_improvement_pct(same, same, DEFAULT).item() == 0
    tiny = improvement_pct(torch.full((1, 3), 3e-7), torch.zeros(1, 3), DEFAULT)
    assert tiny.item() == pytest.approx(3e-5, rel=1e-4)  # in float32, 1 - exp(-x) is 0.7 per cent off here


def test_weighted_ppl_improvement_by_hand() -> None:
    """0.2 * 10 + 0.3 * 20 + 0.5 * 40 = 28 falls to 0.2 * 10 + 0.3 * 20 + 0.5 * 26 = 21: a quarter."""
    got = weighted_ppl_improvement_pct(nats(10, 20, 40), nats(10, 20, 26), DEFAULT)
    assert got.item() == pytest.approx(25)


def slow_step(improvement: float, steps: Steps) -> float:
    reward = 0.0
    for threshold, value in steps:
        if improvement >= threshold:
            reward = value
    return reward


GRID = torch.tensor([-5, 0, 0.01, 0.05, 0.2, 0.5, 0.7, 1, 1.5, 2, 2.5, 3, 50], dtype=torch.float64)


def test_steps_by_hand() -> None:
    assert step_reward(GRID, STEPS).tolist() == pytest.approx(
        [0, 0, 0, 0.2, 0.2, 0.5, 0.5, 0.7, 0.7, 0.9, 0.9, 1.0, 1.0]
    )
    assert step_reward(GRID, VRCLI_STEPS).tolist() == pytest.approx(
        [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.9, 0.9, 1.0, 1.0, 1.0, 1.0]
    )


@pytest.mark.parametrize("steps", [STEPS, VRCLI_STEPS, ((1.0, 1.0),)])
def test_steps_against_a_plain_loop(steps: Steps) -> None:
    values = torch.linspace(-1, 4, 501, dtype=torch.float64)
    expected = [slow_step(value, steps) for value in values.tolist()]
    assert step_reward(values, steps).tolist() == pytest.approx(expected)


def test_interpolation_by_hand() -> None:
    assert interpolated_reward(GRID, STEPS).tolist() == pytest.approx(
        [0, 0, 0.04, 0.2, 0.3, 0.5, 0.58, 0.7, 0.8, 0.9, 0.95, 1.0, 1.0]
    )


@pytest.mark.parametrize("steps", [STEPS, VRCLI_STEPS, ((0.5, 0.3), (0.6, 0.3), (0.7, 0.4))])
def test_interpolation_touches_the_steps_never_falls_and_has_no_jump(steps: Steps) -> None:
    thresholds = torch.tensor([threshold for threshold, _ in steps], dtype=torch.float64)
    assert interpolated_reward(thresholds, steps).tolist() == pytest.approx([reward for _, reward in steps])
    along = interpolated_reward(torch.linspace(-1, 4, 5001, dtype=torch.float64), steps).diff()
    assert along.min() >= 0
    assert along.max() < 0.02


def test_linear_by_hand_and_the_identity() -> None:
    assert linear_reward(GRID, 0.5, -1.0, 1.0).tolist() == pytest.approx(
        [-1, 0, 0.005, 0.025, 0.1, 0.25, 0.35, 0.5, 0.75, 1, 1, 1, 1]
    )
    assert torch.equal(linear_reward(GRID), GRID)


def test_maps_keep_shape_dtype_and_order_of_rows() -> None:
    values = torch.tensor([[0.3, 2.0, -1.0], [0.05, 9.0, 0.0]])
    for mapped in (step_reward(values, STEPS), interpolated_reward(values, STEPS), linear_reward(values, 0.1, -1, 1)):
        assert mapped.shape == values.shape
        assert mapped.dtype == torch.float32
    assert torch.equal(step_reward(values.flip(0), STEPS), step_reward(values, STEPS).flip(0))


@pytest.mark.parametrize(
    ("steps", "named"),
    [(((1.0, 0.5), (0.5, 0.7)), "thresholds"), (((0.5, 0.7), (1.0, 0.5)), "rewards"), (((1, 0), (1, 1)), "thresholds")],
)
def test_steps_that_do_not_ascend_are_refused(steps: Steps, named: str) -> None:
    with pytest.raises(ValueError, match=f"their {named} do not ascend"):
        step_reward(GRID, steps)
    with pytest.raises(ValueError, match=f"their {named} do not ascend"):
        interpolated_reward(GRID, steps)


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param((-0.5, 0.5, 1.0), id="bad-40-negative"),
        pytest.param((0.0, 0.0, 0.0), id="bad-40-sum-0"),
        pytest.param((0.5, 0.5, 0.5), id="bad-40-sum-above-1"),
        pytest.param((math.nan, 0.5, 0.5), id="bad-40-nan"),
        pytest.param((0.5, 0.5), id="bad-40-two"),
        pytest.param((0.25, 0.25, 0.25, 0.25), id="bad-40-four"),
        pytest.param((), id="bad-40-none"),
    ],
)
def test_weights_that_are_none_are_refused(weights: tuple[float, ...]) -> None:
    for function in (improvement_pct, weighted_ppl_improvement_pct):
        with pytest.raises(ValueError, match=r"weights = \[.*three numbers from 0 on.* that sum to 1"):
            function(nats(20, 30, 40), nats(20, 30, 40), weights)
    with pytest.raises(ValueError, match="weights"):
        weighted_perplexity(nats(20, 30, 40), weights)
