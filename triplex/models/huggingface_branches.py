"""Several responses to one prompt, which is read once for all of them, forward and backward.

Legend: U prompts, P prompt, B responses, R response, K key heads, D their width, H width of the states.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from triplex.models.causal import position_ids
from triplex.models.huggingface_decoder import BufferedLayer


class BranchingLayer(BufferedLayer):
    """Keys and values of the prompts of one layer, with their gradient; each response sees those of its own."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The prompts' (U, K, P, D) as they come; after `branch` those of each response with its own behind them."""
        if not self.is_initialized:
            return super().update(key_states, value_states)
        return torch.cat([self.keys, key_states], 2), torch.cat([self.values, value_states], 2)

    def branch(self, owner: Tensor) -> None:
        """Give each response the keys and values of its prompt, number `owner` (B,)."""
        self.keys, self.values = self.keys.index_select(0, owner), self.values.index_select(0, owner)


def branch_states(trunk: Any, num_layers: int, prompt_ids: Tensor, prompt_mask: Tensor, owner: Tensor,
                  response_ids: Tensor, response_mask: Tensor) -> Tensor:  # fmt: skip
    """(B, R, H) states that predict the tokens of responses (B, R) after prompts (U, P), padded on the left.

    `trunk` is that of a transformers model whose layers all attend; `owner` (B,) says whose response each is. It is
    called twice for any responses: workers that put a layer's weights together do so equally often.
    """
    layers = [BranchingLayer() for _ in range(num_layers)]
    cache = Cache(layers=list(layers))
    prompts = trunk(
        input_ids=prompt_ids, attention_mask=prompt_mask, position_ids=position_ids(prompt_mask),
        past_key_values=cache, use_cache=True,
    ).last_hidden_state  # fmt: skip
    first = prompts[:, -1].index_select(0, owner)[:, None]
    width = max(1, response_ids.shape[1] - 1)  # the last token is predicted, not read, but where it is the only one
    read = response_ids[:, :width]
    for layer in layers:
        layer.branch(owner)
    mask = torch.cat([prompt_mask[owner], response_mask[:, :width]], 1)
    places = prompt_mask.sum(1)[owner, None] + torch.arange(width, device=read.device)
    rest = trunk(
        input_ids=read, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
    ).last_hidden_state  # fmt: skip
    return torch.cat([first, rest], 1)[:, : response_ids.shape[1]]
