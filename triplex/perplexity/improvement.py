"""How much likelier a text became on its three levels, and what that is worth.

Legend: B texts; the last dimension, 3, is (word, phrase, sentence). Improvements are in per cent.
Source of the idea and of the steps: VR-CLI, arXiv 2503.22828.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

#: (word, phrase, sentence), each row sums to 1
WEIGHTS = {
    "default": (0.2, 0.3, 0.5),
    "story": (0.1, 0.3, 0.6),
    "technical": (0.4, 0.4, 0.2),
    "code": (0.4, 0.5, 0.1),
}

#: (improvement in per cent, reward from there on), ascending
Steps = Sequence[tuple[float, float]]
STEPS: Steps = ((0.05, 0.2), (0.5, 0.5), (1.0, 0.7), (2.0, 0.9), (3.0, 1.0))
VRCLI_STEPS: Steps = ((0.05, 0.5), (1.0, 0.9), (2.0, 1.0))


def improvement_pct(baseline_nats: Tensor, nats: Tensor, weights: Sequence[float]) -> Tensor:
    """I = 100 (1 - exp(-sum_L w_L delta_L)), delta_L = log B_L - log P_L, (B,) from level nats (B, 3).

    The saving in the weighted geometric mean of the levels' perplexities; negative when the text became less likely.
    ValueError unless the weights are three, not negative, and sum to 1.
    """
    _check(weights)
    delta = baseline_nats - nats
    return -100 * torch.expm1(-(delta @ delta.new_tensor(weights)))


def weighted_perplexity(nats: Tensor, weights: Sequence[float]) -> Tensor:
    """P = sum_L w_L P_L, (B,) from level nats (B, 3): the weighted arithmetic mean of the levels' perplexities.

    ValueError for the weights as `improvement_pct` has it.
    """
    _check(weights)
    perplexities = nats.exp()
    return perplexities @ perplexities.new_tensor(weights)


def weighted_ppl_improvement_pct(baseline_nats: Tensor, nats: Tensor, weights: Sequence[float]) -> Tensor:
    """I = 100 (B - P) / B for the `weighted_perplexity` B of the baseline and P, (B,) from level nats (B, 3).

    The profile `weighted_ppl`. The level with the largest perplexity decides it, whatever its weight.
    """
    baseline = weighted_perplexity(baseline_nats, weights)
    return 100 * (baseline - weighted_perplexity(nats, weights)) / baseline


def step_reward(improvement: Tensor, steps: Steps) -> Tensor:
    """The reward of the highest step that the improvement has reached, 0 below the first; same shape.

    Nearly all samples of a group can land on one step, and then GRPO has no variance to learn from.
    """
    thresholds, rewards = _ascending(improvement, steps)
    return torch.cat([rewards.new_zeros(1), rewards])[torch.bucketize(improvement, thresholds, right=True)]


def interpolated_reward(improvement: Tensor, steps: Steps) -> Tensor:
    """`step_reward` without its jumps: straight lines from (0, 0) through the steps, flat outside; same shape.

    It touches every step where that begins, and never falls where the improvement rises.
    """
    thresholds, rewards = _ascending(improvement, [(0.0, 0.0), *steps])
    position = improvement.clamp(thresholds[0], thresholds[-1])
    right = torch.bucketize(position, thresholds).clamp(min=1)
    left = right - 1
    share = (position - thresholds[left]) / (thresholds[right] - thresholds[left])
    return torch.lerp(rewards[left], rewards[right], share)


def linear_reward(improvement: Tensor, per_pct: float = 1.0, low: float = -math.inf, high: float = math.inf) -> Tensor:
    """`per_pct` for every per cent, clipped to [low, high]; same shape. As it stands, the identity."""
    return (per_pct * improvement).clamp(low, high)


def _check(weights: Sequence[float]) -> None:
    whole = len(weights) == 3 and all(weight >= 0 for weight in weights) and math.isclose(sum(weights), 1, abs_tol=1e-6)
    if not whole:
        what = "three numbers from 0 on, for word, phrase and sentence, that sum to 1"
        raise ValueError(f"weights = {list(weights)}, they must be {what}")


def _ascending(improvement: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    """Thresholds and rewards in the improvement's dtype; ValueError unless both ascend."""
    thresholds, rewards = zip(*steps, strict=True)
    for name, values, strictly in (("thresholds", thresholds, True), ("rewards", rewards, False)):
        if any(b < a or (strictly and b == a) for a, b in pairwise(values)):
            raise ValueError(f"steps = {list(steps)}: their {name} do not ascend (from 0 on, when interpolated)")
    return improvement.new_tensor(thresholds), improvement.new_tensor(rewards)
