"""Repetition as a penalty."""

from collections.abc import Sequence
from typing import Any, Literal

from triplex.evaluation.metrics import repeated_share, words
from triplex.rewards.contract import PartConfig
from triplex.runs.params import described


class RepetitionConfig(PartConfig):
    """`reward.repetition:` minus the share of n-grams that occurred before in the completion, in [-1, 0]."""

    unit: Literal["word", "token"] = described("what n-grams are made of")
    ngram_size: int = described("1 is 1 - distinct / all units", unit="units", ge=1)


class RepetitionReward:
    """-(1 - distinct / all n-grams) of the completion's words or tokens; 0 where there is no n-gram."""

    def __init__(self, config: RepetitionConfig) -> None:
        self.unit, self.ngram_size = config.unit, config.ngram_size

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        units = completion_ids if self.unit == "token" else [words(text) for text in completions]
        return [-repeated_share(each, self.ngram_size) for each in units]
