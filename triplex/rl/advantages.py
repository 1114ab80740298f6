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


def group_relative(score: Tensor, valid: Tensor, group_size: int, eps: float) -> Tensor:
    """(score - mean) / (std + eps) within each run of `group_size` scores (B,): GRPO, arXiv 2402.03300, section 4.1.

    std is unbiased (denominator G - 1). Only `valid` (B,) bool scores enter mean and std, the others have advantage 0;
    so has a group of equal scores, and a group of one.
    """
    groups = score.double().view(-1, group_size)  # in float32 the mean of equal scores is not always that score
    counts = valid.view(-1, group_size)
    num = counts.sum(1, keepdim=True)
    mean = (groups * counts).sum(1, keepdim=True) / num.clamp(min=1)
    centred = (groups - mean) * counts
    std = (centred.square().sum(1, keepdim=True) / (num - 1).clamp(min=1)).sqrt()
    return (centred / (std + eps)).view(-1).to(score.dtype)


def zero_variance_frac(score: Tensor, valid: Tensor, group_size: int) -> Tensor:
    """The share of groups whose `valid` (B,) bool scores (B,) are all equal, or fewer than two: they teach nothing."""
    highest = torch.where(valid, score, -torch.inf).view(-1, group_size).amax(1)
    lowest = torch.where(valid, score, torch.inf).view(-1, group_size).amin(1)
    return (highest <= lowest).to(score.dtype).mean()
