"""Multi-level perplexity as a reward: of the response itself, or of a human text that the response prepares for."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from triplex.models.loading import load_causal_lm
from triplex.perplexity.baselines import Baselines, read_baselines, scorer_identity
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.improvement import WEIGHTS
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.adapters import Portable, Recipe
from triplex.rewards.contract import PartConfig, Reward
from triplex.rewards.perplexity_reference import ReferencePerplexity, ReferenceTarget
from triplex.rewards.perplexity_response import ResponsePerplexity, ResponseTarget
from triplex.runs.errors import InputError
from triplex.runs.params import Section, described


class LevelWeights(Section):
    """What each level counts for; they sum to 1."""

    word: float = described("what the word level counts for", ge=0, le=1)
    phrase: float = described("what the phrase level counts for", ge=0, le=1)
    sentence: float = described("what the sentence level counts for", ge=0, le=1)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if not math.isclose(self.word + self.phrase + self.sentence, 1, abs_tol=1e-6):
            raise ValueError(f"the weights sum to {self.word + self.phrase + self.sentence:g}, they must sum to 1")
        return self


class PerplexityRewardConfig(PartConfig):
    """`reward.perplexity:` what is scored, and what each level counts for."""

    level_weights: Literal["default", "story", "technical", "code"] | LevelWeights = described(
        "of word, phrase and sentence: a known set, or three that sum to 1"
    )
    target: Annotated[ResponseTarget | ReferenceTarget, Field(discriminator="kind")] = described(
        "whose perplexity: the response's, or that of a text which the response prepares for"
    )

    def weights(self) -> tuple[float, float, float]:
        """Of the word, phrase and sentence level."""
        if isinstance(self.level_weights, str):
            return WEIGHTS[self.level_weights]
        return self.level_weights.word, self.level_weights.phrase, self.level_weights.sentence


class MultiLevelPerplexityReward(Portable):
    """The reward of `target`, scored by a frozen model against the table of baselines that the same model made.

    Called with TRL's signature. For the target `reference`, the batch needs a column `reference`.
    """

    __name__ = "perplexity"

    def __init__(
        self, scorer: FrozenScorer, levels: PerplexityConfig, baselines: Baselines, config: PerplexityRewardConfig
    ) -> None:
        self.tokenizer, self.model = scorer.tokenizer, scorer.model
        target, weights = config.target, config.weights()
        self.reward: Reward
        if isinstance(target, ReferenceTarget):
            self.reward = ReferencePerplexity(scorer, levels, baselines, target, weights)
        else:
            mean, std = (moment[1:] for moment in baselines.moments())
            self.reward = ResponsePerplexity(scorer, mean, target.band_width * std, weights, target.shape)

    @classmethod
    def load(
        cls,
        scorer_folder: str | Path,
        baselines: str | Path,
        precision: str,
        levels: PerplexityConfig | Mapping[str, Any],
        config: PerplexityRewardConfig | Mapping[str, Any],
        *,
        guarded: bool = False,
    ) -> Self:
        """The reward with the model of `scorer_folder` and its table of baselines; InputError when they do not belong.

        `levels` and `config` are the sections `perplexity` and `reward.perplexity` of params.yaml, read or as mappings.
        A response's own perplexity is no reward by itself (its optimum is the most generic text): InputError unless it
        is `guarded` by a repetition and a length term beside it, or `target.unguarded` insists.
        """
        levels, config = PerplexityConfig.model_validate(levels), PerplexityRewardConfig.model_validate(config)
        if isinstance(config.target, ResponseTarget) and not (guarded or config.target.unguarded):
            raise InputError("reward perplexity", *UNGUARDED)
        table = read_baselines(baselines, scorer_identity(scorer_folder, precision, levels))
        scorer = FrozenScorer(
            *load_causal_lm(scorer_folder, precision),
            max_tokens_per_batch=levels.max_tokens_per_batch,
            pools=levels.pools(),
        )
        reward = cls(scorer, levels, table, config)
        arguments = {
            "scorer_folder": str(Path(scorer_folder).resolve()),
            "baselines": str(Path(baselines).resolve()),
            "precision": precision,
            "levels": levels.model_dump(mode="json", by_alias=True),
            "config": config.model_dump(mode="json", by_alias=True, exclude_none=True),
            "guarded": guarded,
        }
        recipe = Recipe("triplex.rewards.perplexity:MultiLevelPerplexityReward.load", arguments)
        return reward.loaded_by(recipe, scorer.tokenizer)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> Sequence[float | None]:
        return self.reward(prompts, completions, completion_ids, **columns)


#: what is wrong with a reward for the response's own perplexity alone, and what to do
UNGUARDED = (
    "the perplexity of the response stands without a repetition and a length part: the policy would collapse into the "
    "most generic text",
    "give both a weight above 0 in `reward`, or set target.unguarded: true",
)
