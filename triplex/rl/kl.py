"""How far the policy is from its reference, and the coefficient that holds it there.

Legend: B sequences, R response tokens. All quantities in nats per token.
Estimators k1, k2, k3 of KL(policy || reference) from the policy's own samples: Schulman 2020,
http://joschu.net/blog/kl-approx.html.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log p - log r: unbiased, high variance, may be negative."""
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(log p - log r)^2 / 2: biased, low variance, its gradient is the gradient of the true KL."""
    return (logprobs - ref_logprobs) ** 2 / 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """r / p - 1 - log(r / p): unbiased, low variance, never negative."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


@dataclass
class FixedKL:
    """A coefficient that stays."""

    coef: float
    target: None = None

    def update(self, kl: float, num_sequences: int) -> None:
        """Nothing to adapt."""


@dataclass
class AdaptiveKL:
    """Ziegler's proportional controller (arXiv 1909.08593, section 2.2), here on nats per token.

    coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * num_sequences / horizon); horizon counts sequences.
    """

    coef: float
    target: float
    horizon: int

    def update(self, kl: float, num_sequences: int) -> None:
        """Move the coefficient after a step whose mean KL was `kl` nats per token over `num_sequences`."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * num_sequences / self.horizon


def kl_full(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """(B, R): exact KL(policy || reference) over the vocabulary at each place, from logits (B, R, V)."""
    logprobs, ref_logprobs = torch.log_softmax(logits.float(), -1), torch.log_softmax(ref_logits.float(), -1)
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)
