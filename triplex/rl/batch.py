"""The tensors of one learning step.

Legend: B sequences, P prompt (padded on the left), R response (padded on the right).
"""

from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One row a response; one without any True in its mask has no reward, and teaches nothing.

    `old_logprobs` are those of sampling; `values`, `returns` only where a value head is.
    """

    prompt_ids: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P) bool
    response_ids: Tensor  # (B, R)
    response_mask: Tensor  # (B, R) bool
    old_logprobs: Tensor  # (B, R)
    ref_logprobs: Tensor  # (B, R)
    score: Tensor  # (B,)
    values: Tensor | None = None  # (B, R)
    advantages: Tensor | None = None  # (B, R)
    returns: Tensor | None = None  # (B, R)

    def rows(self, index: Tensor) -> Self:
        """The batch of these rows."""

        def cut(x: Tensor | None) -> Any:
            return None if x is None else x[index]

        return type(self)(**{f.name: cut(getattr(self, f.name)) for f in fields(self)})

    def __len__(self) -> int:
        return len(self.response_ids)
