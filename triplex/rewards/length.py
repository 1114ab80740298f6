"""A band of lengths that cost nothing."""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import model_validator

from triplex.rewards.contract import PartConfig
from triplex.runs.params import described


class LengthConfig(PartConfig):
    """`reward.length:` 0 inside the band, falling to -1 at no tokens and at twice the maximum."""

    min_tokens: int = described("shorter responses cost", unit="tokens", ge=0)
    max_tokens: int = described("longer responses cost", unit="tokens", ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens = {self.min_tokens} is above max_tokens = {self.max_tokens}")
        return self


class LengthReward:
    """Minus the distance to the band [min_tokens, max_tokens] as a share of the bound that is missed, in [-1, 0]."""

    def __init__(self, config: LengthConfig) -> None:
        self.min_tokens, self.max_tokens = config.min_tokens, config.max_tokens

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        return [self._of(len(ids)) for ids in completion_ids]

    def _of(self, num_tokens: int) -> float:
        if num_tokens < self.min_tokens:
            return num_tokens / self.min_tokens - 1
        return -min(1.0, max(0, num_tokens - self.max_tokens) / self.max_tokens)
