import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex.rewards.composite import CompositeReward
from triplex.rewards.contract import Reward
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.repetition import RepetitionConfig, RepetitionReward
from triplex.runs.errors import InputError

PROMPTS, COMPLETIONS, IDS = ["p"] * 3, ["a b a b", "a b", ""], [[1, 2, 3, 0], [1, 2, 0], [0]]
LENGTH = LengthReward(LengthConfig(weight=1.0, min_tokens=4, max_tokens=8))
REPETITION = RepetitionReward(RepetitionConfig(weight=1.0, ngram_size=1))


def given_values(values: Sequence[float | None]) -> Reward:
    """A reward of these values, whatever the completions."""

    def reward(
        prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        return list(values)

    return reward


def test_by_hand() -> None:
    composite = CompositeReward({"length": (0.5, LENGTH), "repetition": (2.0, REPETITION)})
    output = composite.score(PROMPTS, COMPLETIONS, IDS)
    # lengths 4, 3, 1 of at least 4: 0, -1/4, -3/4; words a b a b: half are repeated
    torch.testing.assert_close(output.components["length"], torch.tensor([0.0, -0.125, -0.375]))
    torch.testing.assert_close(output.components["repetition"], torch.tensor([-1.0, 0.0, 0.0]))
    torch.testing.assert_close(output.total, torch.tensor([-1.0, -0.125, -0.375]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 10), st.lists(st.floats(-10, 10), min_size=3, max_size=3)), min_size=1, max_size=4)
)
def test_total_is_the_sum_of_what_is_logged(parts: list[tuple[float, list[float]]]) -> None:
    components = {str(i): (weight, given_values(values)) for i, (weight, values) in enumerate(parts)}
    if not any(weight > 0 for weight, _ in parts):
        return
    output = CompositeReward(components).score(PROMPTS, COMPLETIONS, IDS)
    assert torch.equal(output.total, torch.stack(list(output.components.values())).sum(0))
    for row in range(3):
        by_hand = math.fsum(weight * values[row] for weight, values in parts)
        assert output.total[row].item() == pytest.approx(by_hand, abs=1e-4)


def test_is_itself_a_reward_of_trls_signature() -> None:
    composite = CompositeReward({"length": (0.5, LENGTH)})
    values = composite(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=IDS, label=[1, 0, 1])
    assert values == composite.score(PROMPTS, COMPLETIONS, IDS).total.tolist()
    assert composite.__name__ == "composite"  # by which TRL logs a reward


def test_shapes_and_types() -> None:
    output = CompositeReward({"length": (1.0, LENGTH), "repetition": (1.0, REPETITION)}).score(
        PROMPTS, COMPLETIONS, IDS
    )
    for values in (output.total, *output.components.values()):
        assert (values.shape, values.dtype, values.device.type) == ((3,), torch.float32, "cpu")


def test_whole_numbers_and_an_empty_batch() -> None:
    composite = CompositeReward({"x": (1.0, given_values([1, 0, 2]))})
    assert composite.score(PROMPTS, COMPLETIONS, IDS).total.dtype == torch.float32
    assert CompositeReward({"length": (1.0, LENGTH)}).score([], [], []).total.shape == (0,)


def test_none_does_not_apply_and_counts_0() -> None:
    output = CompositeReward({"x": (2.0, given_values([None, 1.0, None])), "y": (1.0, given_values([0.25] * 3))}).score(
        PROMPTS, COMPLETIONS, IDS
    )
    assert output.components["x"].tolist() == [0.0, 2.0, 0.0]
    assert output.total.tolist() == [0.25, 2.25, 0.25]


def test_weight_0_is_not_computed_and_not_logged() -> None:
    broken = given_values([])  # would be refused for its length
    output = CompositeReward({"length": (1.0, LENGTH), "broken": (0.0, broken)}).score(PROMPTS, COMPLETIONS, IDS)
    assert set(output.components) == {"length"}


@pytest.mark.parametrize("components", [{}, {"length": (0.0, LENGTH)}], ids=["none", "all-0"])
def test_bad_40_without_a_weight_there_is_no_reward(components: dict[str, tuple[float, Reward]]) -> None:
    with pytest.raises(InputError, match="every component has weight 0\n  remedy: give at least one"):
        CompositeReward(components)


@pytest.mark.parametrize(
    "value", [pytest.param(value, id=f"bad-68-{value}") for value in (math.nan, math.inf, -math.inf)]
)
def test_what_is_not_finite_is_named(value: float) -> None:
    composite = CompositeReward({"length": (1.0, LENGTH), "x": (0.5, given_values([0.0, value, value]))})
    with pytest.raises(InputError) as raised:
        composite.score(PROMPTS, COMPLETIONS, IDS)
    assert str(raised.value) == f"reward x: {value} for completion 1: 'a b'"


def test_bad_67_wrong_number_of_values_is_named() -> None:
    composite = CompositeReward({"x": (1.0, given_values([0.0, 1.0]))})
    with pytest.raises(InputError, match="reward x: 2 values for 3 completions"):
        composite.score(PROMPTS, COMPLETIONS, IDS)


def test_columns_reach_every_component() -> None:
    def by_label(
        prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        return [float(label) for label in columns["label"]]

    output = CompositeReward({"x": (3.0, by_label)}).score(PROMPTS, COMPLETIONS, IDS, label=[0, 1, 1])
    assert output.total.tolist() == [0.0, 3.0, 3.0]
