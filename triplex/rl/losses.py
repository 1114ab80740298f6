"""The terms of the loss, per token, and the one function that aggregates them.

Legend: B sequences, R response tokens. A mask is bool, True counts.
"""

import torch
from torch import Tensor


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """(B, R): max(-A * ratio, -A * clip(ratio, 1 - eps, 1 + eps)), PPO's clipped surrogate, arXiv 1707.06347, eq. 7."""
    ratio = torch.exp(logprobs - old_logprobs)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


def clipped(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """(B, R) bool: where the clip, not the ratio, decides the loss, so that the gradient is zero."""
    ratio = torch.exp(logprobs - old_logprobs)
    return ((ratio > 1 + clip_range) & (advantages > 0)) | ((ratio < 1 - clip_range) & (advantages < 0))


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> Tensor:
    """(B, R): half the larger of the squared errors of the value and of the value clipped around its old one.

    Source: openai/baselines ppo2; openai/lm-human-preferences train_policy.py.
    """
    near_old = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum((values - returns) ** 2, (near_old - returns) ** 2) / 2


def token_weights(mask: Tensor, aggregation: str, max_length: int) -> Tensor:
    """(B, R): what one token's loss counts for in the loss of a mini-batch of B sequences; False places weigh 0.

    `token`: 1 / all tokens, each token alike (PPO; DAPO, arXiv 2503.14476). `sequence`: 1 / (B * own length), each
    sequence alike (GRPO, arXiv 2402.03300). `constant`: 1 / (B * max_length) (Dr. GRPO, arXiv 2503.20783).
    Weights are made once for the mini-batch and cut with it, so its micro-batches add up to it, however it is split.
    """
    num_sequences = mask.shape[0]
    match aggregation:
        case "token":
            denominator = mask.sum().clamp(min=1)
        case "sequence":
            denominator = num_sequences * mask.sum(1, keepdim=True).clamp(min=1)
        case "constant":
            denominator = torch.tensor(num_sequences * max_length)
        case _:
            raise ValueError(f"aggregation = {aggregation!r}: not one of token, sequence, constant")
    return mask / denominator


def aggregate(loss: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of a per-token loss (B, R); what stands where the weight is 0 does not enter, NaN neither."""
    return torch.where(weights > 0, loss * weights, torch.zeros_like(loss)).sum()
