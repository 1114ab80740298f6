"""A causal language model as reinforcement learning sees it: states of a trunk, logits of a head, a decoder.

Legend: B sequences, L positions, G responses a prompt, N rows still decoded, H width of the states, V vocabulary.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn


class Decoder(Protocol):
    """Prompts read once, then one token a row and call; made by `CausalLM.decoder`."""

    def prefill(self) -> Tensor:
        """(B * G, H) states after each prompt, the G copies of a prompt side by side; called once, first."""

    def step(self, tokens: Tensor) -> Tensor:
        """(N, H) states after one more token (N,) in each row."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (n,) int64, increasing, of the present N alone."""


class Trunk(nn.Module, ABC):
    """What a value network stands on. Masks are bool, True counts."""

    hidden_size: int  #: H
    max_positions: int | None  #: tokens that the model can take; None for no limit
    eos_ids: tuple[int, ...]  #: every id that ends a text
    reads_prompts_once = False  #: whether there are `branch_states`

    @abstractmethod
    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, L, H) for ids (B, L) padded on either side; the state at a place predicts the token after it.

        States of real tokens do not depend on padding; those at padding may be anything finite.
        """

    def branch_states(self, prompt_ids: Tensor, prompt_mask: Tensor, owner: Tensor, response_ids: Tensor,
                      response_mask: Tensor) -> Tensor:  # fmt: skip
        """(B, R, H) states that predict the tokens of responses (B, R), the prompts (U, P) read once for all of theirs.

        `owner` (B,) numbers each response's prompt. Prompts are padded on the left, responses on the right.
        """
        raise NotImplementedError


class CausalLM(Trunk):
    """What a policy and a reference stand on: a trunk with its head."""

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """(N, V) for states (N, H) of any places."""

    @abstractmethod
    def decoder(self, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int, max_new_tokens: int) -> Decoder:
        """For prompts (B, P), padded on the left, each continued G = `group_size` times."""


def position_ids(mask: Tensor) -> Tensor:
    """(B, L) positions counted over True places, so that left padding does not shift them."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
