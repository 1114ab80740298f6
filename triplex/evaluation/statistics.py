"""Means with their uncertainty. The same values and seed give the same numbers, never NaN."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
_NUMBERS_AT_ONCE = 2**20


def summary(values: ArrayLike, seed: int) -> dict[str, float]:
    """`mean`, `std` (of a sample: n - 1), `min`, `max` and the mean's interval `ci_low`, `ci_high`.

    The interval is the percentile bootstrap's at CONFIDENCE; equal values, or a single one, give one of no width.
    ValueError where there is no value or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{array.size} values, {np.isfinite(array).sum()} of them finite: nothing to summarise")
    low, high = _mean_interval(array, seed)
    return {
        "mean": float(array.mean()),
        "std": float(array.std(ddof=1)) if array.size > 1 else 0.0,
        "min": float(array.min()),
        "max": float(array.max()),
        "ci_low": low,
        "ci_high": high,
    }


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int) -> dict[str, float]:
    """Mean of a - b as `diff`, and its interval `ci_low`, `ci_high` from a bootstrap over pairs.

    `a[i]` and `b[i]` belong together (the same prompt): what varies from prompt to prompt cancels.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}: they are no pairs")
    found = summary(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), seed)
    return {"diff": found["mean"], "ci_low": found["ci_low"], "ci_high": found["ci_high"]}


def jackknife_interval(value: float, without_each: Sequence[float]) -> tuple[float, float]:
    """The interval at CONFIDENCE of a statistic whose values without each observation in turn are given.

    For what a bootstrap would bias: a resample repeats texts, so it always has fewer distinct n-grams (Efron 1981).
    """
    array = np.asarray(without_each, dtype=np.float64)
    error = np.sqrt((array.size - 1) / array.size * np.sum((array - array.mean()) ** 2))
    margin = float(stats.norm.ppf((1 + CONFIDENCE) / 2) * error)
    return value - margin, value + margin


def _mean_interval(array: np.ndarray, seed: int) -> tuple[float, float]:
    if np.ptp(array) == 0:
        return float(array[0]), float(array[0])
    interval = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=max(1, _NUMBERS_AT_ONCE // array.size),  # bounds the memory; the random numbers are the same
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
