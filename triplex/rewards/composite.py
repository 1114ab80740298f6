"""Several rewards as one: a weighted sum whose logged parts are what entered it."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from triplex.rewards.adapters import Portable
from triplex.rewards.contract import Bounds, Reward, RewardOutput
from triplex.runs.errors import InputError

_LARGEST = torch.finfo(torch.float32).max


class Part(NamedTuple):
    """One component: weight * clip((value - mean) / std)."""

    reward: Reward
    weight: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    clip: Bounds | None = None
    whole: Callable[[], AbstractContextManager[None]] = nullcontext  # inside, the reward's network can run

    def entered(self, values: Tensor) -> Tensor:
        """What `values` (B,) add to the total, (B,)."""
        scaled = (values - self.mean) / self.std
        return self.weight * (scaled.clamp(self.clip.low, self.clip.high) if self.clip else scaled)


class CompositeReward(Portable):
    """The sum of named parts; a part of weight 0 is not computed."""

    __name__ = "composite"

    def __init__(self, parts: Mapping[str, Part]) -> None:
        for name, part in parts.items():
            if not (part.weight >= 0 and math.isfinite(part.weight)):
                raise InputError(f"reward {name}", f"weight {part.weight}", "give a number from 0 on")
        self.parts = {name: part for name, part in parts.items() if part.weight > 0}
        if not self.parts:
            raise InputError("reward", "every part has weight 0", "give at least one a weight above 0")

    def divide(self, divide_at_rest: Callable[[nn.Module], Callable[[], AbstractContextManager[None]]]) -> None:
        """Divide the network of each part that has one among workers, which then score at the same time."""
        for name, part in self.parts.items():
            if isinstance(model := getattr(part.reward, "model", None), nn.Module):
                self.parts[name] = part._replace(whole=divide_at_rest(model))

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> RewardOutput:
        """The batch's total and parts. A part that is None for a completion ("does not apply") adds 0 there.

        InputError naming part and completion for a value that is no finite number, or for a wrong number of values.
        """
        extras: dict[str, list[Any]] = {}
        components: dict[str, Tensor] = {}
        valid = torch.zeros(len(completions), dtype=torch.bool)
        columns = columns | {"log_extra": lambda name, values: extras.update({name: list(values)})}
        for name, part in self.parts.items():
            with part.whole():
                values = part.reward(prompts, completions, completion_ids, **columns)
            check_values(f"reward {name}", values, completions)
            applies = torch.tensor([value is not None for value in values], dtype=torch.bool)
            numbers = torch.tensor([0.0 if value is None else value for value in values], dtype=torch.float32)
            components[name] = part.entered(numbers) * applies
            valid |= applies
        return RewardOutput(torch.stack(list(components.values())).sum(0), components, valid, extras)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        """The totals; None where no part applies."""
        output = self.score(prompts, completions, completion_ids, **columns)
        self._pass_on(output, columns)
        totals, valid = output.total.tolist(), output.valid.tolist()
        return [total if counts else None for total, counts in zip(totals, valid, strict=True)]

    @staticmethod
    def _pass_on(output: RewardOutput, columns: Mapping[str, Any]) -> None:
        """Components and extras to whoever called with TRL's `log_extra`."""
        if log_extra := columns.get("log_extra"):
            for name, component in output.components.items():
                log_extra(f"rewards/{name}", component.tolist())
            for name, values in output.extras.items():
                log_extra(name, values)


def check_values(name: str, values: Any, completions: Sequence[str]) -> None:
    """InputError unless `values` are one finite number or None for each completion."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise InputError(name, f"returned {type(values).__name__}", "return a list, one number or None a completion")
    if len(values) != len(completions):
        raise InputError(name, f"{len(values)} values for {len(completions)} completions", "return one for each")
    for row, value in enumerate(values):
        if value is not None and not (isinstance(value, Real) and abs(value) <= _LARGEST):  # type: ignore[operator]
            what = f"{value!r} for completion {row}: {completions[row][:80]!r}"
            raise InputError(name, what, "return a finite number, or None where the reward does not apply")
