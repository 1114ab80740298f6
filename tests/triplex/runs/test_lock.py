import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from triplex.runs import lock
from triplex.runs.errors import BusyError, Exit

HOLDER = """\
import os, sys, time
from triplex.runs import lock

with lock.hold("train@ppo"):
    lock.beat("train@ppo", 40, 240)
    lock._held[-1].write()
    if "fork" in sys.argv and os.fork() == 0:
        time.sleep(60)
    print("held", flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def holder(seconds: float, *more: str) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(seconds), *more], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process


def test_a_living_run_says_who_and_how_far_it_is() -> None:
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    process = holder(60)
    found, lives = lock.read(Path(".triplex/locks/train-ppo.lock"))
    process.kill()
    process.wait()
    assert lives
    assert found is not None
    assert (found.pid, found.work, found.step, found.total) == (process.pid, "train@ppo", 40, 240)
    assert before <= found.since <= found.time <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def test_a_killed_run_leaves_its_last_beat_and_no_lock() -> None:
    process = holder(60)
    process.kill()
    process.wait()
    found, lives = lock.read(lock.lock_path("train@ppo"))
    assert not lives
    assert found is not None
    assert found.progress() == "train@ppo step 40 of 240"
    with lock.hold("train@ppo"):
        found, lives = lock.read(lock.lock_path("train@ppo"))
    assert lives
    assert found is not None
    assert (found.pid, found.progress()) == (os.getpid(), "")


@pytest.mark.parametrize("error", [None, RuntimeError("stop")])
def test_a_run_that_ended_in_order_leaves_nothing(error: Exception | None) -> None:
    try:
        with lock.hold("sft"):
            lock.beat("sft", 1, 2)
            if error:
                raise error
    except RuntimeError:
        pass
    assert lock.read(lock.lock_path("sft")) == (None, False)


def test_every_beat_is_known_though_few_are_written() -> None:
    lock.beat("sft", 1, 5)  # outside of a stage: nothing
    with lock.hold("sft"):
        for step in range(5):
            lock.beat("sft", step + 1, 5)
        assert lock.last_beat().progress() == "sft step 5 of 5"
        lock._held[-1]._written -= 10
        lock.beat("evaluate", 6, 7)
        found, _ = lock.read(lock.lock_path("sft"))
        assert found is not None
        assert found.progress() == "evaluate step 6 of 7"


def test_a_second_run_waits_for_a_first_one_that_ends(capsys: pytest.CaptureFixture[str]) -> None:
    process = holder(1.0)
    begin = time.monotonic()
    with lock.hold("train@ppo"):
        assert 0.1 < time.monotonic() - begin < lock.WAIT_SECONDS
        assert process.wait(10) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"stage train@ppo: process {process.pid} has been running it since 2")
    assert said.endswith("; waiting 15 s for it to end\n")


def test_a_second_run_stops_when_the_first_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.3)
    process = holder(60)
    what = f"stage train@ppo: process {process.pid} has been running it since .*, train@ppo step 40 of 240 at 2.*Z\n"
    with (
        pytest.raises(BusyError, match=what + "  remedy: wait until it is done, or end that process"),
        lock.hold("train@ppo"),
    ):
        pytest.fail("two at a time")
    process.kill()
    process.wait()
    assert BusyError.code is Exit.BUSY


def test_a_fork_that_lives_on_still_holds_the_lock() -> None:
    process = holder(60, "fork")
    forked = int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(process.pid)]))
    process.kill()
    process.wait()
    assert lock.read(lock.lock_path("train@ppo"))[1]
    os.kill(forked, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while lock.read(lock.lock_path("train@ppo"))[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stages_of_other_names_run_side_by_side() -> None:
    with lock.hold("sft"), lock.hold("train@ppo"), lock.hold("train@grpo"):
        assert sorted(os.listdir(".triplex/locks")) == ["sft.lock", "train-grpo.lock", "train-ppo.lock"]
