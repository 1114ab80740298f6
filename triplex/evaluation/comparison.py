"""The evaluated models side by side: every measure with its interval, and what it says in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from triplex.evaluation.metrics import distinct_n, distinct_n_without_each
from triplex.evaluation.statistics import jackknife_interval, paired_difference, summary

_DISPLAY = {
    "base": "Base", "sft": "SFT", "ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "reinforce_pp": "REINFORCE++",
    "dr_grpo": "Dr. GRPO", "dapo": "DAPO",
}  # fmt: skip
_CLEARLY = {  # how a difference above and below zero is told
    "reward": ("{model} beats {reference} by {size}", "{model} falls behind {reference} by {size}"),
    "sentiment": ("more positive by {size}", "less positive by {size}"),
    "improvement_pct": (
        "makes the human text likelier by {size} points more",
        "makes the human text likelier by {size} points less",
    ),
    "repetition": ("repeats itself more, by {size}", "repeats itself less, by {size}"),
    "length": ("longer by {size} tokens", "shorter by {size} tokens"),
}

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


def headline(evaluation: Mapping[str, Any], samples: pa.Table, seed: int) -> list[str]:
    """The reward of each trained model against the reference, and against each other, a sentence a pair."""
    reference, paired = evaluation["reference"], evaluation["paired"]
    trained = [name for name in paired if name != "base"]
    rewards = {name: samples.filter(pc.equal(samples["model"], name))["reward"].to_pylist() for name in trained}
    pairs = [(name, reference, paired[name]["reward"]) for name in trained]
    pairs += [(a, b, paired_difference(rewards[a], rewards[b], seed)) for a, b in combinations(trained, 2)]
    told = []
    for model, other, difference in pairs:
        found = _finding("reward", difference, display(model), display(other))
        name = f"{display(model)} against {display(other)} is " if _within_noise(difference) else ""
        told.append(f"{name}{found.sentence} ({found.interval})")
    return told


class Finding(NamedTuple):
    """What one measure says of a model against the reference, and the difference's interval, in words."""

    measure: str
    sentence: str
    interval: str


def findings(evaluation: Mapping[str, Any]) -> dict[str, list[Finding]]:
    """By model, the trained ones first: "within noise" where a paired difference's interval holds zero."""
    paired = evaluation["paired"]
    reference = display(evaluation["reference"])
    return {
        model: [
            _finding(key, paired[model][key], display(model), reference) for key in _CLEARLY if key in paired[model]
        ]
        for model in sorted(paired, key=lambda name: name == "base")
    }


def _finding(key: str, difference: Mapping[str, float], model: str, reference: str) -> Finding:
    diff, low, high = (difference[part] for part in ("diff", "ci_low", "ci_high"))
    digits = _digits(low, high)
    if _within_noise(difference):
        told = f"within noise: differs from {reference} by {number(diff, digits)}"
    else:
        told = _CLEARLY[key][diff < 0].format(model=model, reference=reference, size=number(abs(diff), digits))
        low, high = (low, high) if diff > 0 else (-high, -low)
    interval = f"95 % interval {number(low, digits)} to {number(high, digits)}"
    return Finding(key.removesuffix("_pct"), told, interval)


def _within_noise(difference: Mapping[str, float]) -> bool:
    return difference["ci_low"] <= 0 <= difference["ci_high"]


def _digits(low: float, high: float) -> int:
    """Decimals that show half the interval's width to one significant digit."""
    return 2 if high == low else min(6, max(1, -math.floor(math.log10((high - low) / 2))))


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
