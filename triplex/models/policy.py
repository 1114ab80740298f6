"""A causal language model seen as a policy: log-probabilities, entropy, values and KL of response tokens.

Legend: B sequences, P prompt, R response, N = response_mask.sum() tokens, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from triplex.models.causal import CausalLM
from triplex.models.places import response_states, scatter
from triplex.models.value import ValueNetwork

_AT_ONCE = 256  # rows of V probabilities, which are not kept


class TokenOutputs(NamedTuple):
    """Per response token, float32; 0, and without gradient, where the mask is False."""

    logprobs: Tensor  # (B, R) of the token, nats
    entropy: Tensor  # (B, R) of its distribution, nats
    values: Tensor | None = None  # (B, R); None without a value function
    kl: Tensor | None = None  # (B, R) exact KL(policy || reference), nats; None without the reference's distribution


class Policy(nn.Module):
    """`lm`, and what estimates its return: a `ValueHead` on its states, a `ValueNetwork`, or nothing."""

    def __init__(self, lm: CausalLM, value: nn.Module | None) -> None:
        super().__init__()
        self.lm, self.value = lm, value
        self.shares_prompts = False  #: whether rows have prompts in common, which are then read once

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor,
                temperature: float, *, ref_log_distribution: Tensor | None = None,
                entropy_grad: bool = True) -> TokenOutputs:  # fmt: skip
        """Outputs for prompts (B, P), padded on the left, and responses (B, R), padded on the right.

        `ref_log_distribution` (B, R, V) is `log_distribution` of the reference at the same temperature. Without
        `entropy_grad` the entropy is a number for the log: it costs no backward pass.
        """
        tokens = (prompt_ids, prompt_mask, response_ids, response_mask)
        states = self._states(*tokens)
        logprobs, entropy, kl = TokenStatistics.apply(
            _tempered(self.lm.logits(states), temperature),
            response_ids[response_mask],
            None if ref_log_distribution is None else ref_log_distribution[response_mask],
            entropy_grad,
        )
        values = None
        if isinstance(self.value, ValueNetwork):
            values = self.value(*tokens)
        elif self.value is not None:
            values = scatter(self.value(states).float().reshape(-1), response_mask)
        return TokenOutputs(
            scatter(logprobs, response_mask),
            scatter(entropy, response_mask),
            values,
            None if kl is None else scatter(kl, response_mask),
        )

    def token_logprobs(self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor,
                       temperature: float) -> Tensor:  # fmt: skip
        """The logprobs (B, R) of `forward`, for the work of these alone."""
        states = self._states(prompt_ids, prompt_mask, response_ids, response_mask)
        logits = _tempered(self.lm.logits(states), temperature)
        return scatter(-cross_entropy(logits, response_ids[response_mask], reduction="none"), response_mask)

    def log_distribution(self, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor,
                         temperature: float) -> Tensor:  # fmt: skip
        """(B, R, V) float32: log-probabilities of all tokens at each place; 0 where the mask is False."""
        states = self._states(prompt_ids, prompt_mask, response_ids, response_mask)
        return scatter(torch.log_softmax(_tempered(self.lm.logits(states), temperature), -1), response_mask)

    def _states(self, *tokens: Tensor) -> Tensor:
        return response_states(self.lm, *tokens, shares_prompts=self.shares_prompts)


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """The logits of what is sampled from, float32."""
    return logits.float() if temperature == 1 else logits.float() / temperature


class TokenStatistics(torch.autograd.Function):
    """(logprobs, entropy, kl or None), each (N,), from logits (N, V): one softmax forward, one pass backward.

    With p the distribution, H its entropy, r the reference and l the logits:
    d log p_a / dl = 1_a - p, dH / dl = -p (log p + H), dKL / dl = p (log p - log r - KL).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, ref_log_distribution: Tensor | None,
                entropy_grad: bool) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
        """Tokens are (N,), the reference's log-distribution (N, V)."""
        distribution = torch.log_softmax(logits, -1)
        entropy = torch.cat([-torch.linalg.vecdot(rows.exp(), rows) for rows in distribution.split(_AT_ONCE)])
        kl = None
        if ref_log_distribution is not None:
            kl = torch.linalg.vecdot(distribution.exp(), distribution - ref_log_distribution)
        ctx.save_for_backward(distribution, tokens, ref_log_distribution, entropy, kl)
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy)
        ctx.set_materialize_grads(False)
        return distribution.gather(-1, tokens[:, None]).squeeze(-1), entropy, kl

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        """The gradient at the logits."""
        of_logprobs, of_entropy, of_kl = gradients
        distribution, tokens, ref_log_distribution, entropy, kl = ctx.saved_tensors
        weight = torch.zeros_like(entropy)[:, None]  # of each p: what stands beside it in the sum of all three
        if of_logprobs is not None:
            weight = weight - of_logprobs[:, None]
        if of_entropy is not None:
            weight = weight - of_entropy[:, None] * (distribution + entropy[:, None])
        if of_kl is not None:
            weight = weight + of_kl[:, None] * (distribution - ref_log_distribution - kl[:, None])
        found = distribution.exp_().mul_(weight)  # in place: torch would refuse a second backward pass
        if of_logprobs is not None:
            found.scatter_add_(1, tokens[:, None], of_logprobs[:, None])
        return found, None, None, None
