"""What the evaluation says in words: each model against the reference, how sure that is, and how much it is."""

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from triplex.evaluation.comparison import display, number
from triplex.evaluation.statistics import paired_difference

Difference = Mapping[str, float]  # diff, ci_low and ci_high of a mean over pairs

NEGLIGIBLE_SD = 0.2  # standard deviations of the reference's responses; what Cohen 1988 calls small begins here
NEGLIGIBLE_SHARE = 0.01  # of what lies between 0 and 1, whose responses may be alike to the third decimal
_SHARES = ("sentiment", "repetition")
_MAX_DIGITS = 6
_LEAST_DIGITS = {"improvement_pct": 1, "length": 1}  # 2 for the others
_COLUMNS = {"length": "num_tokens"}  # of the table of samples, where it has another name
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


class Responses(NamedTuple):
    """A measure of a model's responses: their mean and standard deviation."""

    mean: float
    sd: float


class Finding(NamedTuple):
    """What one measure says of a model against the reference: in words, the difference's interval, and its scale."""

    measure: str
    sentence: str
    interval: str
    scale: str  # the reference's mean and the standard deviation of its responses

    @property
    def evidence(self) -> str:
        """What stands beside the sentence."""
        return f"{self.interval}; {self.scale}"


def headline(evaluation: Mapping[str, Any], samples: pa.Table, seed: int) -> list[str]:
    """The reward of each trained model against the reference, and against each other, a sentence a pair."""
    reference, paired = evaluation["reference"], evaluation["paired"]
    trained = [name for name in paired if name != "base"]
    rewards = {name: samples.filter(pc.equal(samples["model"], name))["reward"].to_pylist() for name in trained}
    pairs = [(name, reference, paired[name]["reward"]) for name in trained]
    pairs += [(a, b, paired_difference(rewards[a], rewards[b], seed)) for a, b in combinations(trained, 2)]
    told = []
    for model, other, difference in pairs:
        found = _finding("reward", difference, model, other, _responses(samples, other, "reward"))
        names = f"{display(model)} against {display(other)}: " if _within_noise(difference) else ""
        told.append(f"{names}{found.sentence} ({found.interval})")
    return told


def findings(evaluation: Mapping[str, Any], samples: pa.Table) -> dict[str, list[Finding]]:
    """By model, the trained ones first: "within noise" where a paired difference's interval holds zero."""
    paired, reference = evaluation["paired"], evaluation["reference"]
    keys = [key for key in _CLEARLY if any(key in measured for measured in paired.values())]
    against = {key: _responses(samples, reference, key) for key in keys}
    return {
        model: [
            _finding(key, paired[model][key], model, reference, against[key]) for key in keys if key in paired[model]
        ]
        for model in sorted(paired, key=lambda name: name == "base")
    }


def signed(key: str, difference: Difference) -> tuple[str, str, str]:
    """The difference and the ends of its interval, each with its sign, all with the same decimals."""
    digits = _digits(key, difference)
    values = (difference[part] for part in ("diff", "ci_low", "ci_high"))
    diff, low, high = (("+" if round(value, digits) > 0 else "") + number(value, digits) for value in values)
    return diff, low, high


def _finding(key: str, difference: Difference, model: str, reference: str, against: Responses) -> Finding:
    diff, low, high = (difference[part] for part in ("diff", "ci_low", "ci_high"))
    digits, other = _digits(key, difference), display(reference)
    if _within_noise(difference):
        told, *ends = signed(key, difference)
        sentence = f"no clear difference, {told} is within noise"
    else:
        size, *ends = (number(abs(part), digits) for part in (diff, low, high))
        ends = ends if diff > 0 else ends[::-1]
        sentence = _CLEARLY[key][diff < 0].format(model=display(model), reference=other, size=size)
        if abs(diff) < NEGLIGIBLE_SD * against.sd or (key in _SHARES and abs(diff) < NEGLIGIBLE_SHARE):
            sentence = f"clear but negligible: {sentence}"
    return Finding(
        measure=key.removesuffix("_pct"),
        sentence=sentence,
        interval=f"95 % interval {ends[0]} to {ends[1]}",
        scale=f"{other} {number(against.mean, digits)}, SD {number(against.sd, digits)}",
    )


def _within_noise(difference: Difference) -> bool:
    return difference["ci_low"] <= 0 <= difference["ci_high"]


def _responses(samples: pa.Table, model: str, key: str) -> Responses:
    """The standard deviation is exactly 0 where all are alike."""
    values = samples.filter(pc.equal(samples["model"], model))[_COLUMNS.get(key, key)].to_numpy()
    return Responses(float(values.mean()), float(values.std(ddof=1)) if np.ptp(values) else 0.0)


def _digits(key: str, difference: Difference) -> int:
    """Decimals that show the interval's half width and that neither of its ends is zero."""
    low, high = difference["ci_low"], difference["ci_high"]
    return min(_MAX_DIGITS, max(_LEAST_DIGITS.get(key, 2), *map(_decimals, (low, high, (high - low) / 2))))


def _decimals(value: float) -> int:
    """Those up to the first digit that is not 0."""
    return max(0, -math.floor(math.log10(abs(value)))) if value else 0
