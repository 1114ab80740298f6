"""Repetition as a penalty."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from triplex.evaluation.metrics import repetition
from triplex.runs.params import Section


class RepetitionConfig(Section):
    """`reward.repetition:` minus the share of n-grams that occurred before in the completion, in [-1, 0]."""

    weight: float = Field(ge=0)
    ngram_size: int = Field(ge=1)


class RepetitionReward:
    """-(1 - distinct / all n-grams) of the completion's words; 0 where there is no n-gram."""

    def __init__(self, config: RepetitionConfig) -> None:
        self.ngram_size = config.ngram_size

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        return [-repetition(text, self.ngram_size) for text in completions]
