"""The target `reference`: does what the policy wrote make the true text likelier? (VR-CLI, arXiv 2503.22828.)

Legend: B responses; the last dimension, 3, is (word, phrase, sentence).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from triplex.evaluation.metrics import ngrams
from triplex.perplexity.baselines import Baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.improvement import improvement_pct, weighted_ppl_improvement_pct
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.maps import MapConfig
from triplex.runs.errors import InputError
from triplex.runs.params import Section

_LEVELS = slice(1, 4)  # word, phrase and sentence of the scorer's (token, word, phrase, sentence)
_OVERLAP_NGRAM = 3
_PROFILES = {"geometric": improvement_pct, "weighted_ppl": weighted_ppl_improvement_pct}


class PlanConfig(Section):
    """`plan:` which part of a response stands in the context; a response without `after` has an empty plan."""

    after: str = Field(description="the plan is what follows the first of these words; empty: the whole response")
    before: str = Field(description="and ends before the next of these; empty: with the response")

    def extract(self, response: str) -> str:
        """The plan in `response`."""
        plan = response.partition(self.after)[2] if self.after else response
        return plan.partition(self.before)[0] if self.before else plan


class ReferenceTarget(Section):
    """`target.kind: reference`: the improvement of the human text's perplexity over an empty response."""

    kind: Literal["reference"]
    plan: PlanConfig
    profile: Literal["geometric", "weighted_ppl"] = Field(description="how the levels' perplexities are averaged")
    map: MapConfig


class ReferencePerplexity:
    """`map` of the improvement, in per cent, of the reference's perplexity after the plan over that after none.

    Both contexts come from the same template, so that its wording earns nothing; a response whose plan is empty has
    improved by exactly 0. Columns: `reference`, the human texts. `log_extra` takes `improvement_pct` and `overlap`.
    """

    def __init__(
        self,
        scorer: FrozenScorer,
        levels: PerplexityConfig,
        baselines: Baselines,
        target: ReferenceTarget,
        weights: Sequence[float],
    ) -> None:
        """`weights`: word, phrase and sentence level. InputError when the first step lies in the scorer's noise."""
        floor = baselines.noise_floor_pct(weights)
        if target.map.threshold() < floor:
            raise InputError(
                "params.yaml: reward.perplexity.target.map",
                f"its first step, {target.map.threshold():g} %, lies below the scorer's noise of {floor:.3g} %",
                "raise the step; the noise is that of other batches and thread counts, stored in the baselines",
            )
        self.scorer, self.levels, self.baselines = scorer, levels, baselines
        self.target, self.weights = target, tuple(weights)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        *,
        reference: Sequence[str | None] | None = None,
        log_extra: Callable[[str, list[float | None]], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One number a completion; None where the reference is None."""
        if reference is None:
            remedy = "give the data set a column `reference` with the human text of each prompt"
            raise InputError("reward perplexity", "the batch has no column `reference`", remedy)
        given = [(row, gold) for row, gold in enumerate(reference) if gold is not None]
        rows, golds = [row for row, _ in given], [gold for _, gold in given]
        measured = self._score([prompts[row] for row in rows], [completions[row] for row in rows], golds)
        everywhere = [dict(zip(rows, values, strict=True)) for values in measured]
        rewards, improvement, overlaps = ([found.get(row) for row in range(len(completions))] for found in everywhere)
        if log_extra:
            log_extra("improvement_pct", improvement)
            log_extra("overlap", overlaps)
        return rewards

    def _score(
        self, prompts: Sequence[str], completions: Sequence[str], reference: Sequence[str]
    ) -> tuple[list[float], list[float], list[float]]:
        """(rewards, improvements in per cent, overlaps)."""
        plans = [self.target.plan.extract(completion) for completion in completions]
        contexts = [self.levels.context(prompt, plan) for prompt, plan in zip(prompts, plans, strict=True)]
        nats = self.scorer.level_nats(contexts, reference, strict_boundary=False)[:, _LEVELS]
        empty = self.baselines.empty_nats(prompts, reference)[:, _LEVELS]
        improvement = _PROFILES[self.target.profile](empty, nats, self.weights)
        improvement[[number for number, plan in enumerate(plans) if not plan]] = 0.0
        overlaps = [overlap(gold, plan) for gold, plan in zip(reference, plans, strict=True)]
        return self.target.map.apply(improvement).tolist(), improvement.tolist(), overlaps


def overlap(reference: str, plan: str) -> float:
    """Share of the reference's word trigrams that stand in the plan, in [0, 1]; copying the gold is how to cheat."""
    gold, copied = list(ngrams(reference, _OVERLAP_NGRAM)), set(ngrams(plan, _OVERLAP_NGRAM))
    return sum(gram in copied for gram in gold) / len(gold) if gold else 0.0
