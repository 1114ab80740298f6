"""The tensors of one learning step.

Legend: B sequences, P prompt (padded on the left), R response (padded on the right).
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One row a response; one without any True in its mask has no reward, and teaches nothing.

    `old_logprobs` and `values` are those of sampling; `kl` is the estimator that the log shows, at sampling time.
    """

    row: Tensor  # (B,) int64, the place in the step's batch
    prompt_ids: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P) bool
    response_ids: Tensor  # (B, R)
    response_mask: Tensor  # (B, R) bool
    old_logprobs: Tensor  # (B, R)
    ref_logprobs: Tensor  # (B, R)
    kl: Tensor  # (B, R) nats
    score: Tensor  # (B,)
    values: Tensor | None = None  # (B, R); only where something estimates them
    advantages: Tensor | None = None  # (B, R)
    returns: Tensor | None = None  # (B, R)

    def tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(prompt_ids, prompt_mask, response_ids, response_mask): what a model reads."""
        return self.prompt_ids, self.prompt_mask, self.response_ids, self.response_mask

    def rows(self, index: Tensor) -> Self:
        """The batch of these rows."""

        def cut(x: Tensor | None) -> Any:
            return None if x is None else x[index]

        return type(self)(**{f.name: cut(getattr(self, f.name)) for f in fields(self)})

    def trimmed(self) -> Self:
        """Without the columns that are padding in every row, one at least left of prompt and response."""
        prompt = int(self.prompt_mask.sum(1).max().clamp(min=1))
        response = int(_reach(self.response_mask).max().clamp(min=1))
        cut: dict[str, Any] = {name: getattr(self, name)[:, -prompt:] for name in ("prompt_ids", "prompt_mask")}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in cut and value is not None and value.dim() == 2:
                cut[f.name] = value[:, :response]
        return replace(self, **cut)

    def passes(self, max_tokens: int) -> list[Tensor]:
        """Row numbers, those of like length together, the longest first, `max_tokens` padded positions a list.

        Rows of one length stand in the order of the step, which has those of one prompt together. A row that is longer
        stands alone.
        """
        lengths = self.prompt_mask.sum(1) + _reach(self.response_mask)
        order = self.row.argsort()
        order = order[lengths[order].argsort(descending=True, stable=True)]
        found = []
        while len(order):
            widest = int(self.prompt_mask[order].sum(1).max() + _reach(self.response_mask[order]).max())
            size = max(1, max_tokens // max(1, widest))
            found.append(order[:size])
            order = order[size:]
        return found

    def __len__(self) -> int:
        return len(self.response_ids)


def _reach(mask: Tensor) -> Tensor:
    """(B,) one past the last True of each row of (B, R)."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * places).amax(1)
