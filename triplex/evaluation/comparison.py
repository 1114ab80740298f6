"""The evaluated models side by side: every measure with its interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from triplex.evaluation.metrics import distinct_n, distinct_n_without_each
from triplex.evaluation.statistics import jackknife_interval, summary

_DISPLAY = {
    "base": "Base", "sft": "SFT", "ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "reinforce_pp": "REINFORCE++",
    "dr_grpo": "Dr. GRPO", "dapo": "DAPO",
}  # fmt: skip
_MEASURED = {  # only where the reward has such a part: label, unit and note
    "sentiment": ("Sentiment", "", "the sentiment score itself, before any weight"),
    "improvement_pct": (
        "Improvement",
        "per cent",
        "of the human text's perplexity after the response, over an empty one",
    ),
    "overlap": ("Overlap", "share", "of the human text's word triples that stand in the response; high: it was copied"),
}


class Estimate(NamedTuple):
    """A number and its 95 % interval; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measure:
    """One row of the comparison: what is measured, how to read it, and each model's estimate."""

    key: str
    label: str
    unit: str
    note: str
    digits: int
    models: Mapping[str, Estimate]


def display(model: str) -> str:
    """A model's name as it is written for people."""
    return _DISPLAY.get(model, model)


def compare(evaluation: Mapping[str, Any], samples: pa.Table, seed: int) -> list[Measure]:
    """Every measure of `evaluation` (reports/eval.json), with intervals from the responses in `samples`.

    Means over responses get a bootstrap interval, perplexities the exponential of their mean's, distinct-n a
    jackknife's; the vocabulary and self-BLEU have none. A response without a value is left out of that mean.
    """
    results = evaluation["models"]
    rows = {name: samples.filter(pc.equal(samples["model"], name)) for name in results}
    texts = {name: table["response"].to_pylist() for name, table in rows.items()}

    def mean(key: str, column: str, label: str, unit: str, note: str, digits: int = 3) -> Measure:
        models = {name: _mean(table[column], seed) for name, table in rows.items()}
        return Measure(key, label, unit, note, digits, models)

    def plain(key: str, label: str, unit: str, note: str, digits: int) -> Measure:
        return Measure(key, label, unit, note, digits, {name: Estimate(results[name][key]) for name in results})

    def distinct(n: int, note: str) -> Measure:
        models = {name: _distinct(texts[name], n) for name in results}
        return Measure(f"distinct_{n}", f"Distinct-{n}", "share", note, 3, models)

    def perplexity(level: str, note: str) -> Measure:
        models = {name: _exponential(_mean(table[f"{level}_nats"], seed)) for name, table in rows.items()}
        return Measure(f"perplexity_{level}", f"Perplexity, {level} level", "", note, 1, models)

    components = sorted({name for result in results.values() for name in result["components"]})
    return [
        mean("reward", "reward", "Reward", "", "what training raises; the sum of the parts below"),
        *(
            mean(f"rewards/{c}", f"rewards/{c}", f"Reward: {c}", "", "the part as it enters the sum")
            for c in components
        ),
        *(mean(key, key, *_MEASURED[key]) for key in _MEASURED if key in samples.column_names),
        distinct(1, "different words among all words"),
        distinct(2, "different word pairs among all pairs; low: the responses are alike"),
        plain("vocabulary", "Vocabulary", "words", "different words in all responses", 0),
        mean("repetition", "repetition", "Repetition", "share", "repeated words inside a response"),
        plain("self_bleu", "Self-BLEU", "0 to 1", "likeness of the responses to each other; 1: all alike", 3),
        mean("length", "num_tokens", "Length", "tokens", "mean of a response", 1),
        mean("kl", "kl_nats", "KL", "nats per token", f"distance from {display(evaluation['reference'])}"),
        perplexity("word", "under the frozen scorer"),
        perplexity("phrase", "the phrases that the scorer expects least weigh most"),
        perplexity("sentence", "the sentences that the scorer expects least weigh most"),
    ]


def number(value: float | None, digits: int) -> str:
    """A number for people: thousands apart, a real minus sign, none before a zero; a dash where there is no number."""
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.lstrip("-")


def _mean(column: pa.ChunkedArray, seed: int) -> Estimate:
    values = column.filter(pc.is_finite(column)).to_numpy()
    if not len(values):
        return Estimate(None)
    found = summary(values, seed)
    return Estimate(found["mean"], found["ci_low"], found["ci_high"])


def _exponential(estimate: Estimate) -> Estimate:
    return Estimate(*(None if part is None else math.exp(part) for part in estimate))


def _distinct(texts: Sequence[str], n: int) -> Estimate:
    value = distinct_n(texts, n)
    low, high = jackknife_interval(value, distinct_n_without_each(texts, n))
    return Estimate(value, max(0.0, low), min(1.0, high))
