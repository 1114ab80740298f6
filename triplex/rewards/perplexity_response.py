"""The target `response`: how predictable the response itself is, held against human text.

Legend: B responses; the last dimension, 3, is (word, phrase, sentence).
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from triplex.perplexity.improvement import improvement_pct
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.params import Section, described

_LEVELS = slice(1, 4)  # word, phrase and sentence of the scorer's (token, word, phrase, sentence)


class ResponseTarget(Section):
    """`target.kind: response`: what a response loses by being less, or more, predictable than human text."""

    kind: Literal["response"]
    shape: Literal["band", "clipped"] = Field(description="band: both sides of human text cost; clipped: only above it")
    band_width: float = described(
        "standard deviations around human text that cost nothing (band)", unit="standard deviations", gt=0
    )
    unguarded: bool = Field(default=False, description="allow it without a repetition and a length part")


class ResponsePerplexity:
    """In [-1, 0]: 0 for human-like text, for an empty response -1.

    band: -min(1, sum_L w_L max(0, |log P_L - mean_L| - half_width_L)), log P_L the nats per token of the response on
    level L after its prompt, mean_L those of human references. Below the band lies the generic text into which a reward
    for low perplexity alone collapses, above it the unlikely text of a policy that has left language behind.
    clipped: min(0, I) / 100 for the improvement I over human text in per cent, -1 at the least.
    """

    def __init__(
        self,
        scorer: FrozenScorer,
        mean_nats: Tensor,
        half_width_nats: Tensor,
        weights: Sequence[float],
        shape: Literal["band", "clipped"] = "band",
    ) -> None:
        """`mean_nats`, `half_width_nats` (3,) and `weights`: word, phrase and sentence level."""
        self.scorer, self.mean_nats, self.half_width_nats, self.shape = scorer, mean_nats, half_width_nats, shape
        self.weights = tuple(weights)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        nats = self.scorer.level_nats(prompts, completions, strict_boundary=False)[:, _LEVELS]
        rewards = (self._band(nats) if self.shape == "band" else self._clipped(nats)).clamp(min=-1).tolist()
        return [reward if text else -1.0 for reward, text in zip(rewards, completions, strict=True)]

    def _band(self, nats: Tensor) -> Tensor:
        outside = ((nats - self.mean_nats).abs() - self.half_width_nats).clamp(min=0)
        return -(outside @ outside.new_tensor(self.weights))

    def _clipped(self, nats: Tensor) -> Tensor:
        return improvement_pct(self.mean_nats.expand_as(nats), nats, self.weights).clamp(max=0) / 100
