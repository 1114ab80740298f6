"""`map:` in params.yaml: from an improvement in per cent to a reward."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from triplex.perplexity.improvement import (
    STEPS,
    VRCLI_STEPS,
    Steps,
    interpolated_reward,
    linear_reward,
    step_reward,
)
from triplex.runs.params import Section, described

_NAMED: dict[str, Steps] = {"default": STEPS, "vrcli": VRCLI_STEPS}


class _SteppedMap(Section):
    """`steps` by name, or as [improvement in per cent, reward] pairs, both ascending."""

    steps: Literal["default", "vrcli"] | list[Annotated[list[float], Field(min_length=2, max_length=2)]] = described(
        "[per cent of improvement, reward] of each step, or the name of a known list", source="arXiv 2503.22828"
    )

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        pairs = self.pairs()
        if not pairs:
            raise ValueError("no steps; give [per cent, reward] pairs, `default` or `vrcli`")
        thresholds, rewards = zip(*pairs, strict=True)
        if thresholds[0] <= 0 or any(a >= b for a, b in pairwise(thresholds)):
            raise ValueError(f"thresholds {list(thresholds)} must be above 0 and ascend, none twice")
        if list(rewards) != sorted(rewards):
            raise ValueError(f"rewards {list(rewards)} fall somewhere; more improvement must not earn less")
        return self

    def pairs(self) -> Steps:
        """((threshold in per cent, reward), ...)."""
        return _NAMED[self.steps] if isinstance(self.steps, str) else [(a, b) for a, b in self.steps]

    def threshold(self) -> float:
        """The smallest improvement, per cent, that earns something: noise must lie below it."""
        return self.pairs()[0][0]


class StepsMap(_SteppedMap):
    """`kind: steps`: the reward of the highest step that is reached. GRPO learns nothing from a group on one step."""

    kind: Literal["steps"]

    def apply(self, improvement: Tensor) -> Tensor:
        return step_reward(improvement, self.pairs())


class InterpolatedMap(_SteppedMap):
    """`kind: interpolated`: straight lines through the steps."""

    kind: Literal["interpolated"]

    def apply(self, improvement: Tensor) -> Tensor:
        return interpolated_reward(improvement, self.pairs())


class LinearMap(Section):
    """`kind: linear`: so much a per cent, clipped."""

    kind: Literal["linear"]
    per_pct: float = described("reward for a per cent of improvement", unit="reward per per cent", gt=0)
    low: float = described("the lowest reward")
    high: float = described("the highest reward")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}")
        return self

    def apply(self, improvement: Tensor) -> Tensor:
        return linear_reward(improvement, self.per_pct, self.low, self.high)

    def threshold(self) -> float:
        return float("inf")  # no step: noise moves the reward by as little as itself


class IdentityMap(Section):
    """`kind: identity`: the improvement itself, per cent."""

    kind: Literal["identity"]

    def apply(self, improvement: Tensor) -> Tensor:
        return linear_reward(improvement)

    def threshold(self) -> float:
        return float("inf")


MapConfig = Annotated[
    StepsMap | InterpolatedMap | LinearMap | IdentityMap,
    Field(discriminator="kind", description="from the improvement in per cent to the reward"),
]
