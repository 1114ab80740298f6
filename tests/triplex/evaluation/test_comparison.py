import math

import numpy as np
import pyarrow as pa
import pytest

from triplex.evaluation.comparison import compare, findings, number
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


def test_findings_say_what_beats_what_and_what_is_noise(finished_run):
    told = {
        model: {f.measure: (f.sentence, f.interval) for f in found}
        for model, found in findings(finished_run.evaluation).items()
    }
    assert list(told) == ["ppo", "grpo", "base"]
    assert told["ppo"]["reward"] == ("PPO beats SFT by 0.31", "95 % interval 0.27 to 0.35")
    assert told["base"]["reward"] == ("Base falls behind SFT by 0.20", "95 % interval 0.16 to 0.24")
    assert told["ppo"]["length"] == ("within noise: differs from SFT by 0.4", "95 % interval −1.1 to 1.9")
    assert told["base"]["repetition"][0] == "repeats itself less, by 0.20"


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        ({"diff": 0.0, "ci_low": 0.0, "ci_high": 0.0}, "within noise: differs from SFT by 0.00"),
        ({"diff": 0.1, "ci_low": 0.0, "ci_high": 0.2}, "within noise: differs from SFT by 0.1"),
        ({"diff": 0.25, "ci_low": 0.25, "ci_high": 0.25}, "PPO beats SFT by 0.25"),
        ({"diff": -0.0031, "ci_low": -0.0039, "ci_high": -0.0023}, "PPO falls behind SFT by 0.0031"),
        ({"diff": 1234.5, "ci_low": 1000.0, "ci_high": 1500.0}, "PPO beats SFT by 1,234.5"),
    ],
)
def test_findings_at_the_edges(finished_run, difference, sentence):
    paired = {"ppo": finished_run.evaluation["paired"]["ppo"] | {"reward": difference}}
    assert findings(finished_run.evaluation | {"paired": paired})["ppo"][0].sentence == sentence


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
