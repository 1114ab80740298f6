"""Each check on rows that trigger it, on rows that just do not, and on the noise of a run that goes well."""

import itertools
import math
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from triplex.rl.callbacks import HealthChecks
from triplex.rl.health import (
    CHECKS,
    Health,
    clip_high,
    clip_idle,
    entropy_collapse,
    equal_rewards,
    kl_above_target,
    length_drift,
    never_ends,
    perplexity_sold,
)

CALM: dict[str, Any] = {
    "reward": 0.5, "kl": 0.1, "kl_target": 0.2, "entropy": 1.5, "clip_ratio": 0.02, "completions/mean_length": 30.0,
    "completions/terminated_frac": 0.9, "frac_reward_zero_std": 0.0, "rewards/perplexity": -0.1,
}  # fmt: skip
LENGTH, ENDED, EQUAL = "completions/mean_length", "completions/terminated_frac", "frac_reward_zero_std"


def rows(**columns: Sequence[Any]) -> list[dict[str, Any]]:
    """Calm rows with these columns, which are of one length."""
    return [
        {"step": step, **CALM} | dict(zip(columns, values, strict=True))
        for step, values in enumerate(zip(*columns.values(), strict=True))
    ]


def column(name: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    return rows(**{name: values})


def good_run(seed: int, num_steps: int = 100, parts: bool = True) -> list[dict[str, Any]]:
    """Curves like those of PPO and GRPO on the default reward: noisy, with an overshoot of KL and a decaying clip."""
    r = random.Random(seed)
    target, found = 0.22, []
    for step in range(num_steps):
        gone = 1 - math.exp(-step / 12)
        swing = 1.45 * gone - 0.55 * max(0.0, (step - 30) / num_steps)
        row = {
            "step": step, "reward": 0.4 + 0.45 * gone + r.gauss(0, 0.04), "kl": target * swing + r.gauss(0, 0.03),
            "kl_target": target, "entropy": 1.4 - 0.7 * gone + r.gauss(0, 0.08),
            "clip_ratio": max(0.0, 0.05 * (1 - step / num_steps) ** 2 - 0.001 + r.gauss(0, 0.002)),
            LENGTH: 30 + r.choice([10, -8]) * gone + r.gauss(0, 1.5), ENDED: min(1.0, max(0.02, r.gauss(0.5, 0.3))),
            EQUAL: r.choice([0.0, 0.125, 0.5, 1.0, 0.25]),
        }  # fmt: skip
        if parts:
            row["rewards/perplexity"] = -0.1 - 0.02 * gone + r.gauss(0, 0.03)
        found.append(row)
    return found


@pytest.fixture
def trainer() -> Any:
    config = SimpleNamespace(num_epochs=2, num_minibatches=2)
    run = SimpleNamespace(name="train@ppo")
    return SimpleNamespace(run=run, metrics=[], algorithm=SimpleNamespace(config=config))


def play(trainer: Any, health: HealthChecks, found: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """The steps of a run; returns (step, kind) of all warnings."""
    health.on_train_begin(trainer, len(trainer.metrics))
    for row in found:
        trainer.metrics.append(row)
        health.on_step_end(trainer, row["step"], row)
    return [(warning.step, warning.kind) for warning in health.health.warnings]


@pytest.mark.parametrize("seed", range(40))
def test_a_noisy_run_that_goes_well_warns_nobody(trainer: Any, seed: int) -> None:
    equal_at_times = good_run(seed)
    for before, row in itertools.pairwise(equal_at_times):
        if before[EQUAL] == 1:  # once in a while, not step after step
            row[EQUAL] = 0.5
    assert play(trainer, HealthChecks(), equal_at_times) == []


def test_checks_are_silent_before_there_is_enough_to_see() -> None:
    awful = {"kl": 9.0, "entropy": 0.0, "clip_ratio": 1.0, ENDED: 0.0, EQUAL: 1.0}
    assert [check([*column("reward", [0.5]), CALM | awful]) for check in CHECKS] == [None] * len(CHECKS)


def test_kl_above_twice_its_target() -> None:
    message = kl_above_target(column("kl", [0.1] * 5 + [0.5, 0.4, 0.3, 0.5, 0.4]))  # mean 0.42 of target 0.2
    assert message is not None
    assert message.startswith("KL 0.42 nats per token over the last 5 steps, the target is 0.2: raise train.kl_coef")
    assert kl_above_target(column("kl", [0.1] * 5 + [0.375, 0.375, 0.375, 0.5, 0.375])) is None  # 0.4: twice, not above
    assert kl_above_target(column("kl", [0.1, 0.1, 1.0, 0.1, 0.1])) is None  # one noisy step
    assert kl_above_target(column("kl", [9.0] * 4)) is None  # too early


def test_kl_without_a_target_is_not_judged() -> None:
    assert kl_above_target(rows(kl=[9.0] * 8, kl_target=[None] * 8)) is None


def test_a_target_a_token_that_moves_with_the_length_counts_by_its_mean() -> None:
    """As it does where the target is one a response."""
    targets = [0.1, 0.1, 0.1, 0.1, 0.6]  # mean 0.2
    assert kl_above_target(rows(kl=[0.39] * 5, kl_target=targets)) is None
    assert kl_above_target(rows(kl=[0.41] * 5, kl_target=targets)) is not None


def test_entropy_that_is_gone() -> None:
    message = entropy_collapse(column("entropy", [0.3] * 5 + [0.049] * 5))
    assert message is not None
    assert message.startswith("entropy 0.049 nats per token: the samples of a prompt hardly differ; raise")
    assert entropy_collapse(column("entropy", [0.3] * 5 + [0.051] * 5)) is None
    assert entropy_collapse(column("entropy", [0.3] * 5 + [0.01] * 4 + [0.3])) is None


def test_entropy_against_its_start() -> None:
    message = entropy_collapse(column("entropy", [3.0] * 5 + [0.29] * 5))
    assert message is not None
    assert message.startswith("entropy 0.29 nats per token, at the start 3: the policy has collapsed; raise")
    assert entropy_collapse(column("entropy", [3.0] * 5 + [0.31] * 5)) is None


def test_steps_without_a_token_say_nothing_of_entropy() -> None:
    """DAPO leaves out groups of equal rewards: where all are, nothing is left to have an entropy."""
    assert entropy_collapse(column("entropy", [1.5] * 5 + [0.0] * 9)) is None
    assert entropy_collapse(column("entropy", [1.5] * 5 + [0.0, 0.01, 0.01, 0.0, 0.01, 0.01, 0.0, 0.01])) is not None


def sold(gain: float, loss: float, noise: float = 0.02, steps: int = 30) -> list[dict[str, Any]]:
    """The reward rises and the part falls, both in a line, with an alternating noise of that deviation."""
    signs = [noise if step % 2 else -noise for step in range(steps)]
    share = [min(1.0, max(0.0, (step - 9) / (steps - 20))) for step in range(steps)]  # flat in both windows
    return rows(**{
        "reward": [0.4 + gain * s + n for s, n in zip(share, signs, strict=True)],
        "rewards/perplexity": [-0.1 - loss * s - n for s, n in zip(share, signs, strict=True)],
    })  # fmt: skip


def test_perplexity_given_away_for_reward() -> None:
    message = perplexity_sold(sold(0.4, 0.15))
    assert message is not None
    assert message.startswith("reward up by 0.4, its perplexity part down by 0.15 since the start:")
    assert "read the completions" in message


def test_a_small_price_is_a_fair_one() -> None:
    assert perplexity_sold(sold(0.4, 0.099)) is None
    assert perplexity_sold(sold(0.4, 0.101)) is not None


def test_a_fall_within_the_noise_is_none() -> None:
    """Alternating signs of 0.1 have a variance of 0.01 * 10 / 9; a difference of means of ten has 2 / 10 of that."""
    error = 0.1 * math.sqrt(2 / 9)
    assert perplexity_sold(sold(0.4, 3.9 * error, noise=0.1)) is None
    assert perplexity_sold(sold(0.4, 4.1 * error, noise=0.1)) is not None
    assert perplexity_sold(sold(3.9 * error, 0.8, noise=0.1)) is None
    assert perplexity_sold(sold(4.1 * error, 0.8, noise=0.1)) is not None


@pytest.mark.parametrize(("gain", "loss"), [(0.4, -0.2), (-0.4, 0.2), (-0.4, -0.2), (0.0, 0.3)])
def test_only_a_gain_that_costs_perplexity_warns(gain: float, loss: float) -> None:
    assert perplexity_sold(sold(gain, loss)) is None


def test_perplexity_is_judged_only_where_it_is_a_part_and_after_twenty_steps() -> None:
    found = sold(0.4, 0.3)
    assert perplexity_sold(found) is not None
    assert perplexity_sold(found[:10] + found[-9:]) is None
    assert perplexity_sold(found[:10] + found[-10:]) is not None
    assert perplexity_sold([{k: v for k, v in row.items() if k != "rewards/perplexity"} for row in found]) is None


def test_groups_of_equal_rewards() -> None:
    message = equal_rewards(column(EQUAL, [0.5, 1.0, 1.0, 1.0]))
    assert message is not None
    assert message.startswith("within every group all rewards were equal for 3 steps, so nothing is learnt:")
    assert equal_rewards(column(EQUAL, [1.0, 1.0, 0.99])) is None
    assert equal_rewards(column(EQUAL, [1.0, 1.0])) is None
    assert equal_rewards([{"step": step, "reward": 0.5} for step in range(9)]) is None  # PPO has no groups


@pytest.mark.parametrize(("now", "warns"), [(45.1, True), (44.9, False), (30.0, False), (15.1, False), (14.9, True)])
def test_length_that_has_drifted_by_half(now: float, warns: bool) -> None:
    message = length_drift(column(LENGTH, [29.0, 31.0, 30.0, 28.0, 32.0] + [30.0] * 7 + [now] * 5))
    assert (message is not None) == warns
    if message:
        assert message.startswith(f"responses of {now:.3g} tokens, at the start 30:")


def test_one_long_batch_is_no_drift() -> None:
    assert length_drift(column(LENGTH, [30.0] * 9 + [90.0])) is None
    assert length_drift(column(LENGTH, [30.0] * 5 + [60.0] * 4)) is None  # the windows would overlap


def test_responses_that_never_end() -> None:
    message = never_ends(column(ENDED, [0.5, 0.0, 0.0, 0.0, 0.0, 0.0]))
    assert message is not None
    assert message.startswith("no response of the last 5 steps ended by itself: raise train.max_new_tokens")
    assert never_ends(column(ENDED, [0.0, 0.0, 0.0, 0.0, 0.015625])) is None
    assert never_ends(column(ENDED, [0.0] * 4)) is None


def test_a_policy_that_never_reaches_the_clip() -> None:
    message = clip_idle(column("clip_ratio", [0.02] + [0.0] * 10))  # the first step does not count
    assert message is not None
    assert message.startswith("no token was clipped in 10 steps: the policy hardly moves within a step; raise")
    assert clip_idle(column("clip_ratio", [0.0] * 10)) is None


def test_a_clip_that_falls_to_zero_late_is_the_decay_of_the_learning_rate() -> None:
    assert clip_idle(column("clip_ratio", [0.0, 0.0, 1e-4] + [0.0] * 50)) is None


def test_steps_that_teach_nothing_say_nothing_of_the_clip() -> None:
    assert clip_idle(rows(clip_ratio=[0.0] * 12, frac_reward_zero_std=[0.0] + [1.0] * 2 + [0.0] * 9)) is None
    assert clip_idle(rows(clip_ratio=[0.0] * 13, frac_reward_zero_std=[0.0] + [1.0] * 2 + [0.0] * 10)) is not None


def test_most_tokens_clipped() -> None:
    message = clip_high(column("clip_ratio", [0.1] * 5 + [0.5, 0.5, 0.75, 0.5, 0.5]))
    assert message is not None
    assert message.startswith("55% of the tokens were clipped over the last 5 steps and taught nothing: lower")
    assert clip_high(column("clip_ratio", [0.5] * 9)) is None
    assert clip_high(column("clip_ratio", [0.1, 0.1, 0.1, 0.1, 1.0])) is None


def test_one_descent_a_batch_clips_nothing_and_warns_of_nothing(trainer: Any) -> None:
    idle = column("clip_ratio", [0.0] * 20)
    assert play(trainer, HealthChecks(), idle) == [(10, "clip_idle")]
    trainer.metrics, trainer.algorithm.config.num_epochs, trainer.algorithm.config.num_minibatches = [], 1, 1
    assert play(trainer, HealthChecks(), idle) == []
    for changed in ({"num_epochs": 2, "num_minibatches": 1}, {"num_epochs": 1, "num_minibatches": 2}):
        trainer.metrics, trainer.algorithm.config = [], SimpleNamespace(**changed)
        assert play(trainer, HealthChecks(), idle) == [(10, "clip_idle")]


def test_a_kind_warns_once_on_stderr_with_the_step(trainer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    health = HealthChecks()
    assert play(trainer, health, column(ENDED, [0.5] * 5 + [0.0] * 40)) == [(9, "never_ends")]
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"warning: train@ppo step 9: {health.health.warnings[0].text}\n"


def test_a_kind_warns_again_only_when_it_had_gone(trainer: Any) -> None:
    """Seen last at step 5; nine quiet steps are a rest, ten an end."""
    bad = [0.0] * 6
    rest, gone = [*bad, *[0.5] * 5, *[0.0] * 5], [*bad, *[0.5] * 6, *[0.0] * 5]
    assert play(trainer, HealthChecks(), column(ENDED, rest)) == [(4, "never_ends")]
    trainer.metrics = []
    assert play(trainer, HealthChecks(), column(ENDED, gone)) == [(4, "never_ends"), (16, "never_ends")]


def test_kinds_warn_beside_each_other(trainer: Any) -> None:
    found = rows(**{ENDED: [0.0] * 8, "kl": [0.9] * 8, EQUAL: [1.0] * 8})
    assert play(trainer, HealthChecks(), found) == [(2, "equal_rewards"), (4, "kl_above_target"), (4, "never_ends")]


@pytest.mark.parametrize("checkpoint", range(0, 31, 3))
def test_a_resumed_run_has_the_warnings_of_an_uninterrupted_one(
    trainer: Any, checkpoint: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(**{ENDED: [0.0] * 6 + [0.5] * 12 + [0.0] * 13, "kl": [0.1] * 12 + [0.9] * 19})
    whole, resumed = HealthChecks(), HealthChecks()
    play(trainer, whole, found)
    assert len(whole.health.warnings) == 3
    capsys.readouterr()
    trainer.metrics = list(found[:checkpoint])
    play(trainer, resumed, found[checkpoint:])
    assert resumed.health.warnings == whole.health.warnings
    new = [warning for warning in whole.health.warnings if warning.step >= checkpoint]
    assert [line.split(":")[1] for line in capsys.readouterr().err.splitlines()] == [
        f" train@ppo step {warning.step}" for warning in new
    ]


def test_rows_read_from_a_file_give_the_warnings_of_the_training(trainer: Any) -> None:
    found, health = rows(**{ENDED: [0.0] * 6 + [0.5] * 12 + [0.0] * 13, "clip_ratio": [0.0] * 31}), HealthChecks()
    play(trainer, health, found)
    assert Health(4, found).warnings == health.health.warnings
    assert {warning.kind for warning in health.health.warnings} == {"never_ends", "clip_idle"}
    assert {warning.kind for warning in Health(1, found).warnings} == {"never_ends"}
