import json

import numpy as np
import pytest
from scipy import stats

from triplex.evaluation.statistics import jackknife_interval, paired_difference, summary

VALUES = np.random.default_rng(3).normal(5, 2, 400)


def interval(found: dict[str, float]) -> tuple[float, float]:
    return found["ci_low"], found["ci_high"]


# summary


def test_summary_by_hand():
    found = summary([1, 2, 3, 4], seed=0)
    assert list(found) == ["mean", "std", "min", "max", "ci_low", "ci_high"]
    assert (found["mean"], found["min"], found["max"]) == (2.5, 1.0, 4.0)
    assert found["std"] == pytest.approx((5 / 3) ** 0.5)
    assert 1 <= found["ci_low"] < 2.5 < found["ci_high"] <= 4


def test_the_interval_agrees_with_the_normal_theory():
    margin = stats.norm.ppf(0.975) * VALUES.std() / len(VALUES) ** 0.5
    assert interval(summary(VALUES, seed=0)) == pytest.approx(
        (VALUES.mean() - margin, VALUES.mean() + margin), abs=0.05 * margin
    )


def test_the_interval_covers_the_true_mean_about_95_times_of_100():
    rng = np.random.default_rng(0)
    covered = sum(low <= 1 <= high for low, high in (interval(summary(rng.exponential(1, 60), 0)) for _ in range(200)))
    assert 0.88 <= covered / 200 <= 0.99


def test_summary_follows_shift_and_scale():
    found, moved = summary(VALUES, seed=1), summary(3 * VALUES + 7, seed=1)
    for key in ("mean", "min", "max", "ci_low", "ci_high"):
        assert moved[key] == pytest.approx(3 * found[key] + 7)
    assert moved["std"] == pytest.approx(3 * found["std"])


def test_summary_is_a_function_of_values_and_seed():
    assert summary(VALUES, seed=1) == summary(VALUES.tolist(), seed=1)
    assert interval(summary(VALUES, seed=1)) != interval(summary(VALUES, seed=2))


@pytest.mark.parametrize("values", [[0.3], [0.3] * 7, [0.0, 0.0], [-2]])
def test_equal_values_have_an_interval_of_no_width(values):
    found = summary(values, seed=0)
    assert found["std"] == pytest.approx(0, abs=1e-12)
    assert interval(found) == (values[0], values[0])
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [1.0, float("inf")]])
def test_nothing_to_summarise_is_an_error(values):
    with pytest.raises(ValueError, match="nothing to summarise"):
        summary(values, seed=0)


# paired difference


def test_paired_difference_by_hand():
    found = paired_difference([3, 5, 7], [1, 3, 5], seed=0)
    assert found == {"diff": 2.0, "ci_low": 2.0, "ci_high": 2.0}


def test_paired_difference_agrees_with_the_normal_theory_of_the_differences():
    other = VALUES - np.random.default_rng(4).normal(0.5, 0.3, 400)
    differences = VALUES - other
    margin = stats.norm.ppf(0.975) * differences.std() / 400**0.5
    found = paired_difference(VALUES, other, seed=0)
    assert found["diff"] == pytest.approx(differences.mean())
    assert interval(found) == pytest.approx((found["diff"] - margin, found["diff"] + margin), abs=0.06 * margin)


def test_what_pairs_share_cancels_and_the_sides_swap():
    other = VALUES - np.random.default_rng(4).normal(0.5, 0.3, 400)
    found, swapped = paired_difference(VALUES, other, seed=0), paired_difference(other, VALUES, seed=0)
    assert swapped["diff"] == pytest.approx(-found["diff"])
    assert interval(swapped) == pytest.approx((-found["ci_high"], -found["ci_low"]))
    low, high = interval(summary(VALUES, seed=0))
    assert found["ci_high"] - found["ci_low"] < (high - low) / 4


def test_no_pairs_is_an_error():
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([1, 2], [1], seed=0)
    with pytest.raises(ValueError, match="nothing to summarise"):
        paired_difference([], [], seed=0)


# jackknife


def without_each(statistic, values: np.ndarray) -> list[float]:
    return [float(statistic(np.delete(values, i))) for i in range(len(values))]


def test_jackknife_of_the_mean_is_the_textbooks_standard_error():
    margin = stats.norm.ppf(0.975) * VALUES.std(ddof=1) / 400**0.5
    found = jackknife_interval(VALUES.mean(), without_each(np.mean, VALUES))
    assert found == pytest.approx((VALUES.mean() - margin, VALUES.mean() + margin))


def test_jackknife_by_hand():
    # means without each of 1, 2, 6: 4, 3.5, 1.5; squares about 3 sum to 3.5; times 2/3
    low, high = jackknife_interval(3, [4, 3.5, 1.5])
    assert (3 - low, high - 3) == pytest.approx((1.959964 * (7 / 3) ** 0.5,) * 2)


def test_jackknife_ignores_order_and_follows_scale():
    left_out = without_each(np.mean, VALUES[:20])
    low, high = jackknife_interval(5.0, left_out)
    assert jackknife_interval(5.0, left_out[::-1]) == pytest.approx((low, high))
    assert jackknife_interval(10.0, [2 * value for value in left_out]) == pytest.approx((2 * low, 2 * high))


def test_jackknife_of_a_single_observation_has_no_width():
    assert jackknife_interval(0.5, [0.0]) == (0.5, 0.5)
