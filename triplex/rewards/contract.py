"""What a reward is: TRL's signature, so that every reward here runs in TRL's trainers and theirs run here."""

from collections.abc import Sequence
from typing import Any, Protocol


class Reward(Protocol):
    """A pure function of a batch: one number a completion, None where it does not apply."""

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> Sequence[float | None]:
        """`completion_ids` hold the sampled tokens, the end-of-text token with them; `columns` the dataset's others."""
        ...
