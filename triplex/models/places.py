"""The places of a model's states that predict the tokens of responses.

Legend: B sequences, P prompt, R response, N = response_mask.sum() places, W the longest row without padding, H width.
"""

import torch
from torch import Tensor

from triplex.models.causal import Trunk


def response_states(lm: Trunk, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor,
                    response_mask: Tensor, *, shares_prompts: bool = False) -> Tensor:  # fmt: skip
    """(N, H) states that predict the tokens of responses (B, R), row after row, after prompts (B, P).

    With `shares_prompts` one that stands in several rows is read once where the model can, in as many calls of it for
    any rows. Else the padding between and before the tokens is taken out first: the model reads (B, W - 1) with padding
    on the right alone, which a causal model needs no mask for, and nothing that stands in padding can enter.
    """
    if shares_prompts and lm.reads_prompts_once:
        prompts, owner = torch.unique(torch.where(prompt_mask, prompt_ids, -1), dim=0, return_inverse=True)
        return lm.branch_states(prompts.clamp(min=0), prompts >= 0, owner, response_ids, response_mask)[response_mask]
    mask = torch.cat([prompt_mask, response_mask], 1)
    order = (~mask).byte().argsort(dim=1, stable=True)  # the tokens first, in their order
    num_tokens = mask.sum(1)
    width = max(1, int(num_tokens.max()) - 1)  # the last token of all is predicted, not read
    order = order[:, :width]
    ids = torch.cat([prompt_ids, response_ids], 1).gather(1, order)
    states = lm.states(ids, mask.gather(1, order))
    row, _ = response_mask.nonzero(as_tuple=True)
    place = response_mask.cumsum(1)[response_mask] + prompt_mask.sum(1)[row] - 2  # the one before the token's own
    return states.flatten(0, 1).index_select(0, row * width + place)


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """(B, R, ...) with `values` (N, ...) where the mask (B, R) is True, row after row, and 0 elsewhere."""
    shape = mask.shape + values.shape[1:]
    wide = mask.reshape(mask.shape + (1,) * (values.dim() - 1)).expand(shape)
    return values.new_zeros(shape).masked_scatter(wide, values)
