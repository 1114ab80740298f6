import math

import numpy as np
import pyarrow as pa
import pytest

from triplex.evaluation.comparison import compare, number
from triplex.evaluation.metrics import distinct_n


def column(samples: pa.Table, model: str, name: str) -> np.ndarray:
    return np.array([row[name] for row in samples.to_pylist() if row["model"] == model])


@pytest.fixture
def measures(finished_run):
    return {measure.key: measure for measure in compare(finished_run.evaluation, finished_run.samples, seed=1)}


def test_means_are_the_samples_means_inside_their_intervals(finished_run, measures):
    for key, name in {"reward": "reward", "rewards/sentiment": "rewards/sentiment", "length": "num_tokens"}.items():
        for model, estimate in measures[key].models.items():
            assert estimate.value == pytest.approx(column(finished_run.samples, model, name).mean())
            assert estimate.low < estimate.value < estimate.high


def test_perplexity_is_the_exponential_of_the_mean_nats(finished_run, measures):
    nats = column(finished_run.samples, "ppo", "phrase_nats")
    estimate = measures["perplexity_phrase"].models["ppo"]
    margin = 1.96 * nats.std() / len(nats) ** 0.5
    assert estimate.value == pytest.approx(math.exp(nats.mean()))
    assert estimate.low == pytest.approx(math.exp(nats.mean() - margin), rel=0.03)
    assert estimate.high == pytest.approx(math.exp(nats.mean() + margin), rel=0.03)


def test_distinct_has_an_interval_within_0_and_1_around_its_value(finished_run, measures):
    for model, estimate in measures["distinct_2"].models.items():
        assert estimate.value == distinct_n(column(finished_run.samples, model, "response").tolist(), 2)
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1


def test_what_has_no_interval_is_taken_as_it_is(measures):
    assert measures["vocabulary"].models["ppo"] == (1236, None, None)
    assert measures["self_bleu"].models["sft"] == (0.25, None, None)


def test_a_response_without_a_value_is_left_out(finished_run):
    rows = finished_run.samples.to_pylist()
    missing = [row | {"word_nats": [None, math.nan, 2.0][i % 3]} for i, row in enumerate(rows)]
    missing = [row | {"phrase_nats": None} if row["model"] == "base" else row for row in missing]
    table = pa.Table.from_pylist(missing, schema=finished_run.samples.schema)
    measures = {measure.key: measure for measure in compare(finished_run.evaluation, table, seed=1)}
    assert measures["perplexity_word"].models["ppo"].value == pytest.approx(math.exp(2))
    assert measures["perplexity_phrase"].models["base"] == (None, None, None)


def keys(evaluation, samples):
    return [measure.key for measure in compare(evaluation, samples, seed=1)]


def test_what_the_reward_does_not_have_is_no_measure(finished_run, measures):
    assert {"sentiment", "improvement_pct", "overlap"} & set(measures) == {"sentiment"}
    without = finished_run.samples.drop_columns(["sentiment"])
    assert set(measures) - set(keys(finished_run.evaluation, without)) == {"sentiment"}


def test_improvement_and_overlap_are_measures_where_the_reward_has_them(finished_run):
    num = len(finished_run.samples)
    samples = finished_run.samples
    for name, values in {"improvement_pct": [i % 7 - 2.5 for i in range(num)], "overlap": [0.5] * num}.items():
        samples = samples.append_column(name, pa.array(values))
    found = {measure.key: measure for measure in compare(finished_run.evaluation, samples, seed=1)}
    improvement, overlap = found["improvement_pct"], found["overlap"]
    assert (improvement.label, improvement.unit, overlap.label, overlap.unit) == (
        "Improvement", "per cent", "Overlap", "share",
    )  # fmt: skip
    for model, estimate in improvement.models.items():
        assert estimate.value == pytest.approx(column(samples, model, "improvement_pct").mean())
        assert estimate.low < estimate.value < estimate.high
    assert overlap.models["ppo"] == (0.5, 0.5, 0.5)
    order = list(found)
    assert order.index("sentiment") < order.index("improvement_pct") < order.index("overlap") < order.index("kl")


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.126, 2, "0.13"),
        (-1.5, 1, "−1.5"),
        (-0.0001, 2, "0.00"),
        (-1234.5, 1, "−1,234.5"),
        (0, 0, "0"),
        (None, 2, "–"),
    ],
)
def test_numbers_for_people(value, digits, text):
    assert number(value, digits) == text
