"""Multi-level perplexity as a reward for a response: a band around human text."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator
from torch import Tensor

from triplex.models.loading import load_causal_lm
from triplex.perplexity.baselines import level_moments, read_baselines, scorer_identity
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.params import Section

_LEVELS = slice(1, 4)  # word, phrase and sentence of the scorer's (token, word, phrase, sentence)


class LevelWeights(Section):
    """What each level counts for; they sum to 1."""

    word: float = Field(ge=0, le=1)
    phrase: float = Field(ge=0, le=1)
    sentence: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if not math.isclose(self.word + self.phrase + self.sentence, 1, abs_tol=1e-6):
            raise ValueError(f"the weights sum to {self.word + self.phrase + self.sentence:g}, they must sum to 1")
        return self


class PerplexityRewardConfig(Section):
    """`reward.perplexity:` what a response loses by being less, or more, predictable than human text."""

    weight: float = Field(ge=0)
    band_width: float = Field(gt=0, description="standard deviations around human text that cost nothing")
    level_weights: LevelWeights


class MultiLevelPerplexityReward:
    """-min(1, sum_L w_L max(0, |log P_L - mean_L| - half_width_L)): 0 inside the band of human text, in [-1, 0].

    log P_L is level L's perplexity of the response in the context of its prompt, in nats per token, under a frozen
    scorer; mean_L is that of human references. Below the band lies the generic text into which a reward for low
    perplexity alone collapses, above it the unlikely text of a policy that has left language behind.
    """

    def __init__(
        self, scorer: FrozenScorer, mean_nats: Tensor, half_width_nats: Tensor, weights: Sequence[float]
    ) -> None:
        """`mean_nats`, `half_width_nats` (3,) and `weights`: word, phrase and sentence level."""
        self.scorer, self.mean_nats, self.half_width_nats = scorer, mean_nats, half_width_nats
        self.weights = mean_nats.new_tensor(weights)

    @classmethod
    def load(
        cls,
        scorer_folder: Path,
        baselines: Path,
        precision: str,
        levels: PerplexityConfig,
        config: PerplexityRewardConfig,
    ) -> Self:
        """The reward with the model of `scorer_folder` and the band of its baselines table, which must belong to it."""
        table = read_baselines(baselines, scorer_identity(scorer_folder, precision, levels))
        mean, std = (moment[_LEVELS] for moment in level_moments(table))
        scorer = FrozenScorer(
            *load_causal_lm(scorer_folder, precision),
            max_tokens_per_batch=levels.max_tokens_per_batch,
            pools=levels.pools(),
        )
        weights = config.level_weights
        return cls(scorer, mean, config.band_width * std, (weights.word, weights.phrase, weights.sentence))

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        """One number a completion; None for an empty one, which has no perplexity."""
        nats = self.scorer.level_nats(prompts, completions, strict_boundary=False)[:, _LEVELS]
        outside = ((nats - self.mean_nats).abs() - self.half_width_nats).clamp(min=0)
        rewards = -(outside @ self.weights).clamp(max=1)
        return [reward if text else None for reward, text in zip(rewards.tolist(), completions, strict=True)]
