import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.exceptions import DvcException

from pipelines.doctor.leftovers import abandoned_states, dead_stages, running, stale_rwlock, temporary_files
from pipelines.request import prepare
from tests.pipelines.conftest import ROOT, environment
from tests.pipelines.doctor.conftest import changed, repro
from triplex.runs.errors import BusyError
from triplex.runs.files import atomic_path

RWLOCK = Path(".dvc/tmp/rwlock")
#: holds the lock of a stage, three of eight steps done, until it is killed
STAGE = """
import time
from triplex.runs import lock
with lock.hold("train@ppo"):
    lock._held[-1]._written = 0.0
    lock.beat("train@ppo", 3, 8)
    print("held", flush=True)
    time.sleep(600)
"""


def claim(pid: int) -> str:
    return json.dumps({"write": {str(Path("models/two.txt").absolute()): {"pid": pid, "cmd": "dvc repro"}}})


@pytest.fixture
def ended() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def holder(finished: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([sys.executable, "-c", STAGE], stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_finished_project_has_no_leftovers(finished: Path) -> None:
    assert [*stale_rwlock(), *dead_stages(), *temporary_files()] == []
    assert running() == []


@pytest.mark.parametrize("text", ["", '{"write": {', '{"write": 3}'], ids=repr)
def test_a_torn_lock_of_dvc_is_removed(finished: Path, text: str) -> None:
    RWLOCK.write_text(text)
    Path("params.yaml").write_text("seed: 2\n")
    with pytest.raises(DvcException) as error:
        repro()
    assert "RWLock-file" in str(error.value.__cause__)
    (finding,) = stale_rwlock()
    assert finding.repair
    finding.repair()
    repro()
    assert changed() == {}


def test_a_lock_of_dvc_of_a_process_that_is_gone_is_removed(finished: Path, ended: int) -> None:
    RWLOCK.write_text(claim(ended))
    assert running() == []
    (finding,) = stale_rwlock()
    assert str(ended) in finding.meaning
    assert finding.repair
    finding.repair()
    assert list(stale_rwlock()) == []


def test_a_number_that_another_process_has_by_now_blocks_dvc_and_is_stale(finished: Path) -> None:
    other = subprocess.Popen(["sleep", "600"])
    RWLOCK.write_text(claim(other.pid))
    Path("params.yaml").write_text("seed: 2\n")
    try:
        with pytest.raises(DvcException) as error:
            repro()
        assert "is busy" in str(error.value.__cause__)
        (finding,) = stale_rwlock()
        assert finding.repair
        finding.repair()
        repro()
    finally:
        other.kill()
        other.wait()


def test_a_running_dvc_is_left_alone(finished: Path, tmp_path: Path) -> None:
    link = tmp_path / "dvc"
    link.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(link), "600"])
    RWLOCK.write_text(claim(process.pid))
    try:
        assert list(stale_rwlock()) == []
        assert running() == [f"dvc (process {process.pid})"]
        with pytest.raises(BusyError, match=rf"running a stage here \(process {process.pid}\)"):
            prepare([], False, {})  # nor is a flow started beside it
    finally:
        process.kill()
        process.wait()


def test_a_killed_stage_is_told_with_how_far_it_was(holder: "subprocess.Popen[str]") -> None:
    assert running() == ["stage train-ppo"]
    assert list(dead_stages()) == []
    holder.kill()
    holder.wait()
    assert running() == []
    (finding,) = dead_stages()
    assert finding.warning
    assert str(holder.pid) in finding.meaning
    assert "train@ppo step 3 of 8" in finding.meaning
    assert finding.repair
    finding.repair()
    assert list(dead_stages()) == []


def test_a_flow_is_known_by_its_lock(finished: Path) -> None:
    Path(".triplex/locks").mkdir()
    with Path(".triplex/locks/flow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert running() == ["a flow"]
    assert running() == []


def test_temporary_files_of_killed_writers_are_removed(finished: Path) -> None:
    code = "import os, sys; from triplex.runs.files import atomic_path, atomic_folder\n"
    code += "with atomic_path('models/a.txt') as p, atomic_folder('.triplex/state/x/step') as f:\n"
    code += "    p.write_text('half'); (f / 'b').write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    torn = Path(".dvc/cache/files/md5/ab/.3Jq8mVnUTX0MZf4sUk2c9w.tmp")
    torn.parent.mkdir(exist_ok=True)
    torn.write_text("half")
    with atomic_path("models/living.txt") as living:
        living.write_text("not yet whole")
        found = list(temporary_files())
        for finding in found:
            assert finding.repair
            finding.repair()
        assert living.exists()
    assert [Path(finding.where).parent for finding in found] == [Path("models"), Path(".triplex/state/x"), torn.parent]
    assert not torn.exists()
    assert list(temporary_files()) == []


def test_the_checkpoints_of_a_stage_that_is_gone_are_abandoned(finished: Path) -> None:
    Path(".triplex/state/train-rloo-0123456789abcdef/step-000020").mkdir(parents=True)
    (Path(".triplex/state/train-rloo-0123456789abcdef") / "x").write_bytes(bytes(30_000))
    (finding,) = abandoned_states()
    assert finding.warning
    assert finding.where == ".triplex/state/train-rloo-0123456789abcdef"
    assert finding.meaning.startswith("0.03 MB")
    assert finding.repair is None  # training that only its owner can call off
