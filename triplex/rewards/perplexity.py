"""Multi-level perplexity as a reward for a response: a band around human text."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.params import Section

_FIRST_LEVEL = 1  # of the scorer's (token, word, phrase, sentence), the reward takes the last three


class PerplexityRewardConfig(Section):
    """`reward.perplexity:` what a response loses by being less, or more, predictable than human text."""

    weight: float = Field(ge=0)
    band_width: float = Field(gt=0, description="standard deviations around human text that cost nothing")
    weights: list[float] = Field(min_length=3, max_length=3, description="word, phrase, sentence; their sum is 1")


class MultiLevelPerplexityReward:
    """-min(1, sum_L w_L max(0, |log P_L - mean_L| - width * std_L)): 0 inside the band of human text, in [-1, 0].

    log P_L is level L's perplexity of the response in the context of its prompt, in nats per token, under a frozen
    scorer; mean_L and std_L are those of human references. Below the band lies the generic text into which a reward
    for low perplexity alone collapses, above it the unlikely text of a policy that has left language behind.
    """

    def __init__(self, scorer: FrozenScorer, mean_nats: Tensor, std_nats: Tensor, *, weights: Sequence[float], band_width: float) -> None:  # fmt: skip
        """`mean_nats`, `std_nats` (3,): word, phrase and sentence level of human text."""
        self.scorer, self.mean_nats, self.half_width = scorer, mean_nats, band_width * std_nats
        self.weights = torch.tensor(weights)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        """One number a completion; None for an empty one, which has no perplexity."""
        nats = self.scorer.level_nats(prompts, completions)[:, _FIRST_LEVEL:]
        outside = ((nats - self.mean_nats).abs() - self.half_width).clamp(min=0)
        rewards = -(outside @ self.weights).clamp(max=1)
        return [reward if text else None for reward, text in zip(rewards.tolist(), completions, strict=True)]
