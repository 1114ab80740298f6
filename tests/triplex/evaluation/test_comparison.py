import math

import numpy as np
import pyarrow as pa
import pytest

from triplex.evaluation.comparison import compare, findings, headline, number
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


def test_findings_tell_of_what_was_paired(finished_run):
    paired = dict(finished_run.evaluation["paired"]["ppo"])
    del paired["sentiment"]
    above, below = {"diff": 1.5, "ci_low": 1.2, "ci_high": 1.8}, {"diff": -1.5, "ci_low": -1.8, "ci_high": -1.2}
    noise = {"diff": 1.5, "ci_low": -0.2, "ci_high": 3.2}
    models = {"ppo": paired | {"improvement_pct": above}, "grpo": paired | {"improvement_pct": below}, "base": paired}
    models["other"] = {"improvement_pct": noise}
    told = findings(finished_run.evaluation | {"paired": models})
    assert [found.measure for found in told["ppo"]] == ["reward", "improvement", "repetition", "length"]
    assert [found.measure for found in told["base"]] == ["reward", "repetition", "length"]
    assert told["ppo"][1] == (
        "improvement", "makes the human text likelier by 1.5 points more", "95 % interval 1.2 to 1.8",
    )  # fmt: skip
    assert told["grpo"][1][1:] == ("makes the human text likelier by 1.5 points less", "95 % interval 1.2 to 1.8")
    assert told["other"] == [
        ("improvement", "within noise: differs from SFT by 1.5", "95 % interval −0.2 to 3.2")
    ]  # fmt: skip


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


def test_the_headline_tells_each_trained_model_against_the_reference_and_the_two_against_each_other(finished_run):
    noise = {"diff": 0.01, "ci_low": -0.03, "ci_high": 0.05}
    paired = finished_run.evaluation["paired"]
    evaluation = finished_run.evaluation | {"paired": paired | {"grpo": paired["grpo"] | {"reward": noise}}}
    told = headline(evaluation, finished_run.samples, seed=1)
    assert told[:2] == [
        "PPO beats SFT by 0.31 (95 % interval 0.27 to 0.35)",
        "GRPO against SFT is within noise: differs from SFT by 0.01 (95 % interval −0.03 to 0.05)",
    ]
    difference = column(finished_run.samples, "ppo", "reward") - column(finished_run.samples, "grpo", "reward")
    assert difference.mean() < 0
    assert told[2].startswith(f"PPO falls behind GRPO by {-difference.mean():.2f} (95 % interval ")
    assert len(told) == 3
