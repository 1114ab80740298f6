"""Runs of Trackio, read back from its own store."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triplex.rl.trackio import Trackio
from triplex.runs.errors import InputError


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trackio's store, in a folder of the test: the package settles on one when it is imported."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)
    return pytest.importorskip("trackio").sqlite_storage.SQLiteStorage


def play(first: int, rewards: list[float], *, ends: bool = True) -> None:
    """Steps from `first` on, whose KL is a tenth of the reward; those before it have earned nothing."""
    trainer: Any = SimpleNamespace(metrics=[{"step": step, "reward": 0.0} for step in range(first)])
    tracker = Trackio("reviews", "ppo")
    tracker.on_train_begin(trainer, first)
    for step, reward in enumerate(rewards, start=first):
        row = {"step": step, "reward": reward, "kl": reward / 10, "kl_target": None}
        tracker.on_step_end(trainer, step, row)
    if ends:
        tracker.on_train_end(trainer)


def rewards(store: Any, run: str = "ppo") -> list[tuple[int, float]]:
    return [(row["step"], row["reward"]) for row in store.get_logs("reviews", run)]


def test_each_metric_is_a_curve_of_its_name(store: Any) -> None:
    play(0, [1.0, 2.0, 4.0])
    rows = store.get_logs("reviews", "ppo")
    assert rewards(store) == [(0, 1.0), (1, 2.0), (2, 4.0)]
    assert [row["kl"] for row in rows] == pytest.approx([0.1, 0.2, 0.4])
    assert {name for row in rows for name in row} == {"step", "timestamp", "reward", "kl"}


def test_a_run_that_goes_on_has_every_step_once(store: Any) -> None:
    play(0, [1.0, 2.0, 4.0, 8.0], ends=False)
    play(2, [16.0, 32.0])
    assert rewards(store) == [(0, 0.0), (1, 0.0), (2, 16.0), (3, 32.0)]
    assert len(store.get_run_records("reviews")) == 1


def test_an_experiment_of_dvc_has_runs_of_its_own(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    play(0, [1.0])
    monkeypatch.setenv("DVC_EXP_NAME", "fixed-0.3")
    play(0, [2.0])
    assert rewards(store) == [(0, 1.0)]
    assert rewards(store, "fixed-0.3/ppo") == [(0, 2.0)]


def test_without_the_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match=r"trackio is missing(.|\n)*pip install 'triplex\[trackio\]'"):
        Trackio("reviews", "ppo")
