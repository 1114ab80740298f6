import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex.rewards.composite import CompositeReward, Part
from triplex.rewards.contract import Bounds, Reward
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.repetition import RepetitionConfig, RepetitionReward
from triplex.runs.errors import InputError

PROMPTS, COMPLETIONS, IDS = ["p"] * 3, ["a b a b", "a b", ""], [[1, 2, 3, 0], [1, 2, 0], [0]]
LENGTH = LengthReward(LengthConfig(weight=1.0, min_tokens=4, max_tokens=8))
REPETITION = RepetitionReward(RepetitionConfig(weight=1.0, unit="word", ngram_size=1))


def given_values(values: Any, **extras: Sequence[Any]) -> Reward:
    """A reward of these values, whatever the completions, which logs `extras`."""

    def reward(
        prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        for name, logged in extras.items():
            columns["log_extra"](name, logged)
        return values

    return reward


def test_by_hand() -> None:
    output = CompositeReward({"length": Part(LENGTH, 0.5), "repetition": Part(REPETITION, 2.0)}).score(
        PROMPTS, COMPLETIONS, IDS
    )
    # lengths 4, 3, 1 of at least 4: 0, -1/4, -3/4; words a b a b: half are repeated
    torch.testing.assert_close(output.components["length"], torch.tensor([0.0, -0.125, -0.375]))
    torch.testing.assert_close(output.components["repetition"], torch.tensor([-1.0, 0.0, 0.0]))
    torch.testing.assert_close(output.total, torch.tensor([-1.0, -0.125, -0.375]))
    assert output.valid.tolist() == [True] * 3


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        pytest.param(Part(LENGTH, 3.0, mean=2.0, std=4.0), [-3.0, 0.0, 6.0], id="normalised"),
        pytest.param(Part(LENGTH, 3.0, clip=Bounds(low=-1, high=5)), [-3.0, 6.0, 15.0], id="clipped"),
        pytest.param(
            Part(LENGTH, 3.0, mean=2.0, std=4.0, clip=Bounds(low=-0.5, high=1.0)), [-1.5, 0.0, 3.0], id="both"
        ),
    ],
)
def test_a_part_enters_normalised_then_clipped_then_weighted(part: Part, expected: list[float]) -> None:
    """Of the values -2, 2 and 10."""
    part = part._replace(reward=given_values([-2, 2.0, 10.0]))
    output = CompositeReward({"x": part}).score(PROMPTS, COMPLETIONS, IDS)
    assert output.components["x"].tolist() == output.total.tolist() == expected


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 10),
            st.floats(-5, 5),
            st.floats(0.1, 5),
            st.lists(st.none() | st.floats(-10, 10), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_total_is_the_sum_of_what_is_logged(parts: list[tuple[float, float, float, list[float | None]]]) -> None:
    if not any(weight > 0 for weight, *_ in parts):
        return
    named = {
        str(i): Part(given_values(values), weight, mean, std) for i, (weight, mean, std, values) in enumerate(parts)
    }
    output = CompositeReward(named).score(PROMPTS, COMPLETIONS, IDS)
    assert torch.equal(output.total, torch.stack(list(output.components.values())).sum(0))
    for row in range(3):
        entered = [(w * (v[row] - mean) / std) for w, mean, std, v in parts if v[row] is not None]  # type: ignore[operator]
        assert output.total[row].item() == pytest.approx(math.fsum(entered), abs=1e-2)
        assert output.valid[row].item() == any(w > 0 and v[row] is not None for w, _, _, v in parts)


def test_is_itself_a_reward_of_trls_signature() -> None:
    composite = CompositeReward({"length": Part(LENGTH, 0.5)})
    values = composite(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=IDS, label=[1, 0, 1])
    assert values == [0.0, -0.125, -0.375]
    assert composite.__name__ == "composite"  # by which TRL logs a reward


def test_shapes_and_types() -> None:
    output = CompositeReward({"length": Part(LENGTH), "repetition": Part(REPETITION)}).score(PROMPTS, COMPLETIONS, IDS)
    for values in (output.total, *output.components.values()):
        assert (values.shape, values.dtype, values.device.type) == ((3,), torch.float32, "cpu")
    assert (output.valid.shape, output.valid.dtype, output.valid.device.type) == ((3,), torch.bool, "cpu")


def test_numbers_of_any_kind_and_an_empty_batch() -> None:
    """A bool is the number 0 or 1: `text.endswith(".")` is a reward."""
    for values in ([1, 0, 2], [True, False, 2], [np.float32(1), np.float64(0), np.int64(2)]):
        output = CompositeReward({"x": Part(given_values(values))}).score(PROMPTS, COMPLETIONS, IDS)
        assert (output.total.tolist(), output.total.dtype) == ([1.0, 0.0, 2.0], torch.float32)
    assert CompositeReward({"length": Part(LENGTH)}).score([], [], []).total.shape == (0,)


def test_none_does_not_apply_and_adds_0_also_when_normalised() -> None:
    parts = {
        "x": Part(given_values([None, 1.0, None]), 2.0, mean=-3.0, std=0.5, clip=Bounds(low=-9, high=9)),
        "y": Part(given_values([0.25, 0.25, None])),
    }
    output = CompositeReward(parts).score(PROMPTS, COMPLETIONS, IDS)
    assert output.components["x"].tolist() == [0.0, 16.0, 0.0]
    assert output.total.tolist() == [0.25, 16.25, 0.0]
    assert output.valid.tolist() == [True, True, False]
    assert CompositeReward(parts)(PROMPTS, COMPLETIONS, IDS) == [0.25, 16.25, None]


def test_extras_of_every_part_are_kept_and_enter_nothing() -> None:
    parts = {
        "x": Part(given_values([1.0, 2.0, 3.0], share=(0.1, 0.2, 0.3))),
        "y": Part(given_values([0.0] * 3, text=["a", "b", "c"])),
    }
    output = CompositeReward(parts).score(PROMPTS, COMPLETIONS, IDS)
    assert output.extras == {"share": [0.1, 0.2, 0.3], "text": ["a", "b", "c"]}
    assert output.total.tolist() == [1.0, 2.0, 3.0]
    assert set(output.components) == {"x", "y"}


def test_trls_log_extra_gets_components_and_extras() -> None:
    logged: dict[str, list[Any]] = {}
    parts = {"x": Part(given_values([1.0, None, 3.0], share=[0.1, 0.2, 0.3]), 2.0), "length": Part(LENGTH)}
    CompositeReward(parts)(PROMPTS, COMPLETIONS, IDS, log_extra=lambda name, values: logged.update({name: values}))
    assert logged == {
        "rewards/x": [2.0, 0.0, 6.0],
        "rewards/length": [0.0, -0.25, -0.75],
        "share": [0.1, 0.2, 0.3],
    }


def test_weight_0_is_not_computed_and_not_logged() -> None:
    broken = given_values([])  # would be refused for its length
    output = CompositeReward({"length": Part(LENGTH), "broken": Part(broken, 0.0)}).score(PROMPTS, COMPLETIONS, IDS)
    assert set(output.components) == {"length"}


@pytest.mark.parametrize("parts", [{}, {"length": Part(LENGTH, 0.0)}], ids=["none", "all-0"])
def test_bad_40_without_a_weight_there_is_no_reward(parts: dict[str, Part]) -> None:
    with pytest.raises(InputError, match="every part has weight 0\n  remedy: give at least one"):
        CompositeReward(parts)


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_bad_40_a_weight_that_is_no_number_from_0_on_is_named(weight: float) -> None:
    with pytest.raises(InputError, match=f"reward x: weight {weight}\n  remedy: give a number from 0 on"):
        CompositeReward({"length": Part(LENGTH), "x": Part(LENGTH, weight)})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(math.nan, "nan", id="bad-68-nan"),
        pytest.param(math.inf, "inf", id="bad-68-inf"),
        pytest.param(-math.inf, "-inf", id="bad-68-minus-inf"),
        pytest.param(1e39, "1e+39", id="bad-68-above-float32"),
        pytest.param(10**400, "1" + "0" * 400, id="bad-68-above-float64"),
        pytest.param("1.0", "'1.0'", id="bad-68-str"),
        pytest.param([1.0], "[1.0]", id="bad-68-list"),
        pytest.param(1j, "1j", id="bad-68-complex"),
        pytest.param(torch.tensor(1.0), "tensor(1.)", id="bad-69-tensor"),
    ],
)
def test_what_is_no_finite_number_is_named(value: Any, shown: str) -> None:
    composite = CompositeReward({"length": Part(LENGTH), "x": Part(given_values([0.0, value, value]), 0.5)})
    with pytest.raises(InputError) as raised:
        composite.score(PROMPTS, COMPLETIONS, IDS)
    assert str(raised.value).startswith(f"reward x: {shown} for completion 1: 'a b'\n  remedy: return a finite number")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param([0.0, 1.0], "2 values for 3 completions", id="bad-67-short"),
        pytest.param([0.0] * 4, "4 values for 3 completions", id="bad-67-long"),
        pytest.param(torch.zeros(3), "returned Tensor", id="bad-69-tensor"),
        pytest.param(None, "returned NoneType", id="bad-68-none"),
        pytest.param("012", "returned str", id="bad-68-str"),
        pytest.param({0: 0.0, 1: 1.0, 2: 2.0}, "returned dict", id="bad-68-dict"),
        pytest.param(0.5, "returned float", id="bad-67-one-number"),
    ],
)
def test_what_is_no_list_of_one_value_a_completion_is_named(values: Any, said: str) -> None:
    composite = CompositeReward({"x": Part(given_values(values))})
    with pytest.raises(InputError, match=f"reward x: {said}\n  remedy: return "):
        composite.score(PROMPTS, COMPLETIONS, IDS)


def test_columns_reach_every_part() -> None:
    def by_label(
        prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        return [float(label) for label in columns["label"]]

    parts = {"x": Part(by_label, 3.0), "y": Part(by_label)}
    assert CompositeReward(parts).score(PROMPTS, COMPLETIONS, IDS, label=[0, 1, 1]).total.tolist() == [0.0, 4.0, 4.0]
