"""Several rewards as one: a weighted sum whose logged parts are what entered it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from triplex.rewards.contract import Reward
from triplex.runs.errors import InputError


class RewardOutput(NamedTuple):
    """B completions' total and, by name, each component as it entered the total (weighted); float32, on the CPU."""

    total: Tensor  # (B,)
    components: dict[str, Tensor]  # each (B,)


class CompositeReward:
    """sum of weight * reward over named components; a component of weight 0 is not computed."""

    __name__ = "composite"

    def __init__(self, components: Mapping[str, tuple[float, Reward]]) -> None:
        self.components = {name: pair for name, pair in components.items() if pair[0] > 0}
        if not self.components:
            raise InputError(
                "params.yaml: reward", "every component has weight 0", "give at least one a weight above 0"
            )

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> RewardOutput:
        """The batch's total and parts. None ("does not apply") counts 0; NaN or infinity is an InputError."""
        parts: dict[str, Tensor] = {}
        for name, (weight, reward) in self.components.items():
            values = reward(prompts, completions, completion_ids, **columns)
            if len(values) != len(completions):
                raise InputError(f"reward {name}", f"{len(values)} values for {len(completions)} completions")
            part = weight * torch.tensor([0.0 if value is None else value for value in values])
            if not torch.isfinite(part).all():
                row = int((~torch.isfinite(part)).nonzero()[0])
                raise InputError(f"reward {name}", f"{values[row]} for completion {row}: {completions[row][:80]!r}")
            parts[name] = part
        return RewardOutput(torch.stack(list(parts.values())).sum(0), parts)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        return self.score(prompts, completions, completion_ids, **columns).total.tolist()
