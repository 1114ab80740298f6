import pyarrow as pa
import pytest

from triplex.evaluation.findings import NEGLIGIBLE_SD, findings, headline, signed


def values(samples: pa.Table, model: str, name: str) -> list[float]:
    return [row[name] for row in samples.to_pylist() if row["model"] == model]


def between(diff: float, low: float, high: float) -> dict[str, float]:
    return {"diff": diff, "ci_low": low, "ci_high": high}


@pytest.fixture
def told(finished_run):
    """`told(key, difference)`: what is said of PPO where its measure `key` differs so from SFT's."""
    samples, rows = finished_run.samples, finished_run.samples.to_pylist()
    improvement = pa.array([row["reward"] * 10 for row in rows])
    samples = samples.append_column("improvement_pct", improvement)

    def tell(key, difference):
        evaluation = finished_run.evaluation | {"paired": {"ppo": {key: difference}}}
        (found,) = findings(evaluation, samples)["ppo"]
        return found

    return tell


def test_findings_tell_of_what_was_paired_the_trained_models_first(finished_run):
    paired = finished_run.evaluation["paired"]
    paired = {"base": paired["base"], "ppo": {key: paired["ppo"][key] for key in ("reward", "length")}}
    found = findings(finished_run.evaluation | {"paired": paired}, finished_run.samples)
    assert list(found) == ["ppo", "base"]
    assert [each.measure for each in found["ppo"]] == ["reward", "length"]
    assert [each.measure for each in found["base"]] == ["reward", "sentiment", "repetition", "length"]


@pytest.mark.parametrize(
    ("key", "difference", "sentence", "interval"),
    [
        ("reward", between(0.31, 0.27, 0.35), "PPO beats SFT by 0.31", "0.27 to 0.35"),
        ("reward", between(-0.2, -0.24, -0.16), "PPO falls behind SFT by 0.20", "0.16 to 0.24"),
        ("reward", between(0.25, 0.25, 0.25), "PPO beats SFT by 0.25", "0.25 to 0.25"),
        ("sentiment", between(0.4, 0.004, 0.79), "more positive by 0.400", "0.004 to 0.790"),
        ("improvement_pct", between(9, 8.2, 9.8), "makes the human text likelier by 9.0 points more", "8.2 to 9.8"),
        ("improvement_pct", between(-9, -9.8, -8.2), "makes the human text likelier by 9.0 points less", "8.2 to 9.8"),
        ("length", between(-5.23, -6.31, -4.02), "shorter by 5.2 tokens", "4.0 to 6.3"),
        ("reward", between(0.1, 0.0, 0.2), "no clear difference, +0.10 is within noise", "0.00 to +0.20"),
        ("reward", between(0.0, 0.0, 0.0), "no clear difference, 0.00 is within noise", "0.00 to 0.00"),
        ("length", between(0.4, -1.1, 1.9), "no clear difference, +0.4 is within noise", "−1.1 to +1.9"),
        ("reward", between(-0.15, -0.3, 0.003), "no clear difference, −0.150 is within noise", "−0.300 to +0.003"),
    ],
)  # fmt: skip
def test_what_is_clear_and_what_is_noise(told, key, difference, sentence, interval):
    found = told(key, difference)
    assert (found.sentence, found.interval) == (sentence, f"95 % interval {interval}")


def test_the_references_mean_and_deviation_stand_beside_a_difference(told, finished_run):
    rewards = values(finished_run.samples, "sft", "reward")
    mean = sum(rewards) / len(rewards)
    deviation = (sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)) ** 0.5
    found = told("reward", between(0.31, 0.27, 0.35))
    assert found.evidence == f"95 % interval 0.27 to 0.35; SFT {mean:.2f}, SD {deviation:.2f}"
    for effect, word in ((NEGLIGIBLE_SD * 1.01, "PPO"), (NEGLIGIBLE_SD * 0.99, "clear")):
        assert told("reward", between(effect * deviation, 0.001, 1)).sentence.split()[0] == word


def test_a_small_difference_of_a_share_is_negligible_though_the_responses_are_alike(told):
    found = told("repetition", between(-0.002, -0.003, -0.001))  # SFT's repetition is 0.1 in every response
    assert found.sentence == "clear but negligible: repeats itself less, by 0.002"
    assert found.scale == "SFT 0.100, SD 0.000"
    assert told("repetition", between(-0.02, -0.03, -0.01)).sentence == "repeats itself less, by 0.02"


def test_signed_differences_have_the_same_decimals():
    assert signed("reward", between(0.46, 0.391, 0.53)) == ("+0.46", "+0.39", "+0.53")
    assert signed("reward", between(0.001, -0.03, 0.032)) == ("0.00", "−0.03", "+0.03")
    assert signed("length", between(-0.5, -1.25, 0.04)) == ("−0.50", "−1.25", "+0.04")


def test_the_headline_tells_each_trained_model_against_the_reference_and_the_two_against_each_other(finished_run):
    paired = finished_run.evaluation["paired"]
    paired = paired | {"grpo": paired["grpo"] | {"reward": between(0.01, -0.03, 0.05)}}
    told = headline(finished_run.evaluation | {"paired": paired}, finished_run.samples, seed=1)
    assert told[:2] == [
        "PPO beats SFT by 0.31 (95 % interval 0.27 to 0.35)",
        "GRPO against SFT: no clear difference, +0.01 is within noise (95 % interval −0.03 to +0.05)",
    ]
    ppo, grpo = (values(finished_run.samples, model, "reward") for model in ("ppo", "grpo"))
    difference = (sum(ppo) - sum(grpo)) / len(ppo)
    assert difference < 0
    assert told[2].startswith(f"PPO falls behind GRPO by {-difference:.2f} (95 % interval ")
    assert len(told) == 3
