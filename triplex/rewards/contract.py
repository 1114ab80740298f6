"""What a reward is, and what several of them add up to: TRL's signature, so that rewards run here and there alike."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

from pydantic import Field, model_validator
from torch import Tensor

from triplex.runs.params import OrAbsent, Section, described


class Reward(Protocol):
    """A pure function of a batch: one number a completion, None where it does not apply.

    One with a network of its own has it as `model`: several workers can then keep it in parts.
    """

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> Sequence[float | None]:
        """`completion_ids` hold the sampled tokens, the end-of-text token with them; `columns` the dataset's others.

        Among the columns may be TRL's `log_extra(name, values)`, which keeps one value a completion beside the reward.
        """
        ...


class RewardOutput(NamedTuple):
    """What B completions earned; float32, on the CPU."""

    total: Tensor  # (B,), the sum of the components
    components: dict[str, Tensor]  # by name (B,): what entered the total; 0 where the component does not apply
    valid: Tensor  # (B,) bool: at least one component applies; elsewhere the total is 0 and means nothing
    extras: dict[str, list[Any]]  # by name B values that were measured on the way and enter nothing


class Bounds(Section):
    """`clip:` what lies outside is moved to the nearer bound."""

    low: float = described("the lowest value")
    high: float = described("the highest value")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}")
        return self


class PartConfig(Section):
    """What every part of the total has: total = sum of weight * clip(normalise(value))."""

    weight: float = Field(ge=0, description="0 leaves the part out")
    normalise: bool = Field(default=False, description="to mean 0 and variance 1 on responses of the SFT model")
    clip: OrAbsent[Bounds] = Field(default=None, description="after normalising, before weighting")
