"""Whoever is killed, DVC, a shell, the guard or the stage: nothing is left, and the exit code says what happened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from triplex.runs.processes import GRACE_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the guard stands on Linux's prctl")

#: a stage that starts a process in a session of its own, then does what its argument says; `mark` names its processes
STAGE = """\
import os, signal, subprocess, sys, time
from pathlib import Path

what, mark = sys.argv[1:]
if what == "slow import":
    Path("importing").touch()
    time.sleep(2)
from triplex.runs.guard import guarded

def main():
    if what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if what == "tidy":
        def tidy(*_):
            Path("tidied").touch()
            sys.exit(143)
        signal.signal(signal.SIGTERM, tidy)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)", mark], start_new_session=True)
    Path("stage").write_text(f"{os.getppid()} {os.getpid()}")
    if what == "ends":
        return
    if what == "fails":
        sys.exit(3)
    for _ in range(1000):
        time.sleep(0.1)

guarded(main)
Path("after").touch()
"""

#: stands for DVC: runs a command of a stage by a shell, in its own process group
DVC = """\
import os, subprocess, sys
sys.exit(subprocess.run(["sh", "-c", sys.argv[1]], env={**os.environ, "DVC_STAGE": "make"}).returncode)
"""


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    Path("stage.py").write_text(STAGE)


def mark() -> str:
    return f"mark-of-{os.getcwd()}"


def ours() -> list[psutil.Process]:
    """All living processes that carry the mark."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if mark() in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, [process.cmdline() for process in ours()]
        time.sleep(0.05)


def started() -> bool:
    return Path("stage").exists() and len(Path("stage").read_text().split()) == 2


def stage(what: str) -> "subprocess.Popen[str]":
    """The stage, started without DVC."""
    command = [sys.executable, "stage.py", what, mark()]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def below_dvc(what: str, more: str = "") -> "subprocess.Popen[bytes]":
    command = f"'{sys.executable}' stage.py '{what}' '{mark()}'{more}"
    return subprocess.Popen([sys.executable, "-c", DVC, command], start_new_session=True)


def said(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=60)[1]


@pytest.mark.parametrize(("what", "code"), [("ends", 0), ("fails", 3)])
def test_the_exit_code_is_the_stages_and_what_it_left_running_is_ended(what: str, code: int) -> None:
    process = stage(what)
    assert said(process) == ""
    assert process.returncode == code
    assert ours() == []
    assert Path("after").exists() == (what == "ends")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)])
def test_signals_reach_the_stage(number: signal.Signals, code: int) -> None:
    process = stage("waits")
    wait_for(started)
    process.send_signal(number)
    words = said(process)
    assert process.returncode == code
    assert "KeyboardInterrupt" in words if number == signal.SIGINT else "ended by SIGTERM" in words
    assert ours() == []


def test_a_stage_killed_from_outside_is_told() -> None:
    process = stage("waits")
    wait_for(started)
    os.kill(int(Path("stage").read_text().split()[1]), signal.SIGKILL)
    expected = "error: stage: ended by SIGKILL, as by the kernel when memory runs out; run again to go on\n"
    assert said(process) == expected
    assert process.returncode == 137
    assert ours() == []


def test_a_killed_guard_takes_the_stage_with_it() -> None:
    process = stage("stubborn")
    wait_for(started)
    guard, pid = map(int, Path("stage").read_text().split())
    assert guard == process.pid
    process.kill()
    process.wait()
    wait_for(lambda: pid not in [p.pid for p in ours()], seconds=5)
    for orphan in ours():  # in a session of its own, beyond the reach of all but the guard
        orphan.kill()


@pytest.mark.parametrize("more", ["", "; true"], ids=["the shell may become the command", "the shell stays"])
@pytest.mark.parametrize("what", ["waits", "stubborn", "tidy"])
def test_the_stage_ends_with_dvc(what: str, more: str) -> None:
    dvc = below_dvc(what, more)
    wait_for(started)
    dvc.kill()
    dvc.wait()
    begin = time.monotonic()
    wait_for(lambda: ours() == [], seconds=GRACE_SECONDS + 5)
    assert (time.monotonic() - begin > GRACE_SECONDS) == (what == "stubborn")
    assert Path("tidied").exists() == (what == "tidy")


def test_the_stage_ends_with_the_shell_between() -> None:
    dvc = below_dvc("waits", "; true")
    wait_for(started)
    shell = psutil.Process(dvc.pid).children()[0]
    assert shell.children()[0].pid == int(Path("stage").read_text().split()[0])
    shell.kill()
    dvc.wait()
    wait_for(lambda: ours() == [], seconds=5)


@pytest.mark.parametrize("more", ["", "; true"])
def test_a_stage_whose_dvc_is_killed_while_it_imports_never_starts(more: str) -> None:
    dvc = below_dvc("slow import", more)
    wait_for(Path("importing").exists)
    dvc.kill()
    dvc.wait()
    wait_for(lambda: ours() == [], seconds=60)
    assert not Path("stage").exists()


def test_without_dvc_the_stage_ends_with_its_parent() -> None:
    command = [sys.executable, "stage.py", "waits", mark()]
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({command})"])
    wait_for(started)
    parent.kill()
    parent.wait()
    wait_for(lambda: ours() == [], seconds=5)


def test_ignored_signals_stay_ignored() -> None:
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' INT HUP; exec '{sys.executable}' stage.py waits '{mark()}'"], stderr=subprocess.DEVNULL
    )
    wait_for(started)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    assert process.wait(10) == 143
