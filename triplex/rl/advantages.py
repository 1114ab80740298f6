"""What each token did better than expected.

Legend: B sequences, R response tokens, G group.
"""

import torch
from torch import Tensor


def token_rewards(score: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """rewards (B, R): -kl_coef * kl on every token, and the score (B,) once, on the last True token of its row.

    A row without a token gets no reward at all. Source: arXiv 1909.08593, equation 2, spread over tokens.
    """
    rewards = torch.where(mask, -kl_coef * kl, torch.zeros_like(kl))
    last = (mask.sum(1) - 1).clamp(min=0)
    has_token = mask.any(1).to(score.dtype)
    return rewards.scatter_add(1, last[:, None], (score * has_token)[:, None])


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both (B, R): generalised advantage estimation, arXiv 1506.02438, equation 16.

    delta_t = r_t + gamma * V_{t+1} - V_t, A_t = delta_t + gamma * lambda * A_{t+1}, return_t = A_t + V_t.
    After a row's last token the value is 0 (the text has ended); False places are skipped and come out 0.
    """
    advantages = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards[:, 0])
    next_advantage = torch.zeros_like(next_value)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        advantages[:, t] = torch.where(mask[:, t], advantage, 0)
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        next_advantage = torch.where(mask[:, t], advantage, next_advantage)
    return advantages, torch.where(mask, advantages + values, torch.zeros_like(values))


def group_relative(score: Tensor, group_size: int, eps: float) -> Tensor:
    """(score - mean) / (std + eps) within each run of `group_size` scores (B,): GRPO, arXiv 2402.03300, section 4.1.

    std is unbiased (denominator G - 1). A group of equal scores has advantage 0.
    """
    groups = score.double().view(-1, group_size)  # in float32 the mean of equal scores is not always that score
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + eps)).view(-1).to(score.dtype)


def zero_variance_frac(score: Tensor, group_size: int) -> Tensor:
    """The share of groups whose scores are all equal: they teach nothing."""
    groups = score.view(-1, group_size)
    return (groups.amax(1) == groups.amin(1)).to(score.dtype).mean()
