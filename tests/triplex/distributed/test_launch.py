"""The same training in one process and in several: real torchrun, real Ray, real DeepSpeed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triplex.runs import interrupt
from triplex.runs.errors import InputError

LOCAL, TORCHRUN, RAY = ("local", 1, 0), ("deepspeed", 2, 0), ("ray", 2, 2)
Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def train(share: Train) -> Train:
    """`train("ppo", ("deepspeed", 2, 0), kill_at=3)`: what each worker has seen of six steps."""

    def start(algorithm: str, how: tuple[str, int, int], **given: Any) -> list[dict[str, Any]]:
        given = {"algorithm": algorithm, "train": {"checkpoint_every": 2}} | given
        return share("even_tokens_work", how, **given)

    return start


def losses(worker: dict[str, Any]) -> list[float]:
    return [row["loss"] for row in worker["metrics"]]


def test_one_worker_of_torchrun_gives_the_bits_of_one_process(train: Train) -> None:
    assert train("ppo", ("deepspeed", 1, 0)) == train("ppo", LOCAL)


@pytest.mark.parametrize(
    ("algorithm", "how"),
    [("grpo", TORCHRUN), ("ppo", ("deepspeed", 2, 1)), ("ppo", ("deepspeed", 2, 3))],
)
def test_two_workers_sample_the_same_and_learn_alike(train: Train, algorithm: str, how: tuple[str, int, int]) -> None:
    (alone,) = train(algorithm, LOCAL)
    one, other = train(algorithm, how)
    assert one == other  # every worker has the same metrics and, put together, the same weights
    assert one["ids"][0] == alone["ids"][0]
    assert 0 < alone["metrics"][0]["completions/terminated_frac"] < 1  # some responses end before the others
    assert one["reference"] == pytest.approx(alone["reference"] / (2 if how[2] == 3 else 1), rel=0.01)
    assert losses(one) == pytest.approx(losses(alone), rel=1e-5, abs=1e-6)
    assert [row["reward"] for row in one["metrics"]] == pytest.approx([row["reward"] for row in alone["metrics"]])


def test_a_value_network_is_shared_too(train: Train) -> None:
    (alone,) = train("ppo", LOCAL, network=True)
    one, _ = train("ppo", ("deepspeed", 2, 3), network=True)
    assert losses(one) == pytest.approx(losses(alone), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("how", "kill_rank"), [(TORCHRUN, 0), (RAY, 1)])
def test_a_worker_that_dies_changes_no_bit(train: Train, how: tuple[str, int, int], kill_rank: int) -> None:
    same = ("deepspeed", *how[1:])  # Ray and torchrun give the same bits, so one undisturbed run serves both
    undisturbed, _ = train("ppo", same)
    killed, _ = train("ppo", how, kill_at=3, kill_rank=kill_rank)
    assert (killed["weights"], killed["metrics"]) == (undisturbed["weights"], undisturbed["metrics"])


def test_workers_that_die_too_often_end_with_a_sentence(train: Train, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_failures: workers died more than 0 times; the last checkpoint is kept"):
        train("ppo", TORCHRUN, kill_at=3, kill_rank=1, max_failures=0)
    assert (tmp_path / "run-0/state/step-000002").is_dir()


def test_what_a_worker_finds_wrong_is_told_by_the_stage(train: Train) -> None:
    with pytest.raises(InputError, match=r"the test: something is wrong\n  remedy: mend it"):
        train("ppo", TORCHRUN, wrong_at=1)


@pytest.mark.usefixtures("interruptible")
def test_a_stage_that_is_asked_to_end_lets_its_workers_save_first(train: Train, tmp_path: Path) -> None:
    long = {"train": {"num_steps": 40, "checkpoint_every": 100}}
    undisturbed = train("ppo", TORCHRUN, **long)
    folder = tmp_path / "stopped"
    with pytest.raises(interrupt.Interrupted) as stop:
        train("ppo", TORCHRUN, folder=folder, stop_at=3, stage=os.getpid(), **long)
    assert stop.value.code == 143
    (checkpoint,) = (folder / "state").glob("step-*")  # the one that the signal asked for
    assert "step-000003" <= checkpoint.name < "step-000040"
    interrupt.install()
    again = train("ppo", TORCHRUN, folder=folder, **long)
    for one, other in zip(again, undisturbed, strict=True):
        assert (one["weights"], one["metrics"]) == (other["weights"], other["metrics"])


def test_another_number_of_workers_goes_on_from_a_checkpoint(train: Train, tmp_path: Path) -> None:
    (alone,) = train("ppo", LOCAL)
    folder = tmp_path / "moved"
    with pytest.raises(InputError, match="died"):
        train("ppo", ("deepspeed", 2, 3), folder=folder, kill_at=3, kill_rank=1, max_failures=0)
    found = train("ppo", ("deepspeed", 1, 2), folder=folder)
    assert losses(found[0]) == pytest.approx(losses(alone), rel=1e-5, abs=1e-6)
