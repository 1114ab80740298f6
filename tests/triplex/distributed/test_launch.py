"""The same trainings in one process and in several: real torchrun, real Ray, real DeepSpeed."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from triplex.distributed import launch
from triplex.runs import interrupt
from triplex.runs.errors import InputError

LOCAL, TORCHRUN, ZERO_2 = ("local", 1, 0), ("deepspeed", 2, 0), ("deepspeed", 2, 2)
PPO = {"algorithm": "ppo", "train": {"num_steps": 12, "checkpoint_every": 2}}
PARTS: dict[str, dict[str, Any]] = {
    "ppo": PPO,
    "network": {"algorithm": "ppo", "network": True, "train": {}},  # 6 steps
    "grpo": {"algorithm": "grpo", "train": {"max_tokens_per_pass": 60}, "scored": True},  # unlike numbers of passes
    "sft": {},
    "adapters": {"rank": 4},
}
Parts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def undisturbed(share: Callable[..., Parts]) -> Callable[..., Parts]:
    """`undisturbed(("deepspeed", 2, 3))`: what each worker has seen of each part of PARTS, which is run once."""
    return cache(lambda how: share(how, PARTS))


@pytest.mark.parametrize(("package", "how"), [("ray", ("ray", 2, 0)), ("deepspeed", ("deepspeed", 2, 3))])
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(
    package: str, how: tuple[str, int, int], share: Callable[..., Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"{package} is not installed\n  remedy: pip install 'triplex\[{package}\]'"):
        share(how, {})


def losses(worker: dict[str, Any]) -> list[float]:
    return worker["losses"] if "losses" in worker else [row["loss"] for row in worker["metrics"]]


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (one["weights"], losses(one)) == (other["weights"], losses(other))
    assert one.get("metrics") == other.get("metrics")


def test_one_worker_of_torchrun_gives_the_bits_of_one_process(undisturbed: Callable[..., Parts]) -> None:
    assert undisturbed(("deepspeed", 1, 0)) == undisturbed(LOCAL)


@pytest.mark.parametrize("how", [TORCHRUN, ZERO_2, ("deepspeed", 2, 3)])
def test_two_workers_see_the_same_and_learn_alike(
    undisturbed: Callable[..., Parts], how: tuple[str, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "deepspeed_shm_comm/lock"  # of a build that was killed: nothing is built, so nobody waits for it
    lock.parent.mkdir()
    lock.touch()
    for name, (one, other) in undisturbed(how).items():
        (alone,) = undisturbed(LOCAL)[name]
        assert one == other  # every worker has the same metrics and, put together, the same weights
        assert losses(one)[:6] == pytest.approx(losses(alone)[:6], rel=1e-5, abs=1e-6), name
        if name in ("sft", "adapters"):
            assert one["data"] == alone["data"]
        else:
            assert one["ids"][0] == alone["ids"][0]
            assert 0 < alone["metrics"][0]["completions/terminated_frac"] < 1  # some responses end before the others
            parts = 2 if how[2] == 3 else 1
            assert one["held"] == [pytest.approx(number / parts, rel=0.01) for number in alone["held"]]
            assert one["metrics"][0]["reward"] == pytest.approx(alone["metrics"][0]["reward"])
    assert [path.name for path in tmp_path.rglob("*")] == ["deepspeed_shm_comm", "lock"]


def test_workers_that_die_on_ray_change_no_bit(
    share: Callable[..., Parts], undisturbed: Callable[..., Parts], capfd: pytest.CaptureFixture[str]
) -> None:
    """One while a policy samples, one in supervised training; Ray and torchrun give the same bits."""
    parts = {"ppo": PPO | {"kill_at": 3, "kill_rank": 1}, "sft": {"kill_at": 3, "kill_rank": 0}}
    for name, (one, other) in share(("ray", 2, 2), parts, max_failures=2).items():
        assert_same_bits(one, undisturbed(ZERO_2)[name][0])
        assert_same_bits(other, one)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_a_worker_finds_wrong_is_told_by_the_stage(
    share: Callable[..., Parts], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"the test: something is wrong\n  remedy: mend it"):
        share(TORCHRUN, {"ppo": PPO | {"wrong_at": 1}})
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("interruptible")
def test_a_stage_that_is_asked_to_end_lets_its_workers_save_first(
    share: Callable[..., Parts], undisturbed: Callable[..., Parts], tmp_path: Path
) -> None:
    """A worker has died before: torchrun has started all of them again."""
    ppo = PPO | {"train": {"num_steps": 12, "checkpoint_every": 100}}
    disturbed = ppo | {"kill_at": 1, "kill_rank": 0, "stop_at": 3, "stage": os.getpid()}
    with pytest.raises(interrupt.Interrupted) as stop:
        share(TORCHRUN, {"ppo": disturbed}, folder=tmp_path)
    assert stop.value.code == 143
    (checkpoint,) = (tmp_path / "state/ppo").glob("step-*")  # the one that the signal asked for
    assert "step-000003" <= checkpoint.name < "step-000012"
    interrupt.install()
    for one in share(TORCHRUN, {"ppo": ppo}, folder=tmp_path)["ppo"]:
        assert_same_bits(one, undisturbed(TORCHRUN)["ppo"][0])


def test_another_number_of_workers_goes_on_where_the_others_died_too_often(
    share: Callable[..., Parts], undisturbed: Callable[..., Parts], tmp_path: Path
) -> None:
    said = r"workers died more than 0 times; the last checkpoint is kept\n  remedy: .*/failures.log for why"
    parts = {"sft": {"leave_at": 3}, "ppo": PPO | {"fail_at": 3}}
    with pytest.raises(InputError, match=said):
        share(("deepspeed", 2, 3), parts, folder=tmp_path, max_failures=0)
    assert "LookupError: nobody has thought of this" in (tmp_path / "state/failures.log").read_text()
    assert (tmp_path / "state/ppo/step-000002").is_dir()
    for name, (found,) in share(("deepspeed", 1, 2), {"sft": {}, "ppo": PPO}, folder=tmp_path).items():
        (alone,) = undisturbed(LOCAL)[name]
        assert losses(found)[:6] == pytest.approx(losses(alone)[:6], rel=1e-5, abs=1e-6)
