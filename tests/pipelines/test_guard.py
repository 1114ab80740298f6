"""No process that a guarded command starts survives, whoever ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.guard import Guarded
from pipelines.output import lines
from tests.pipelines.conftest import environment, wait_for
from triplex.runs.processes import GRACE_SECONDS

#: starts a grandchild, a grandchild in a session of its own, and an orphan; prints when all are there
FAMILY = """\
import signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
mark = sys.argv[1]
sleep = [sys.executable, "-c", "import time; time.sleep(1000)", mark]
subprocess.Popen(["sh", "-c", '"$@" & wait', "sh", *sleep])
if "setsid" in sys.argv:
    subprocess.Popen(sleep, start_new_session=True)
subprocess.run(["sh", "-c", '"$@" &', "sh", *sleep])
print("ready", flush=True)
time.sleep(1000 if "ends" not in sys.argv else 0)
sys.exit(7)
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module `family`, importable, and the mark that its processes carry in their command lines."""
    (tmp_path / "family.py").write_text(FAMILY)
    monkeypatch.chdir(tmp_path)
    return f"mark-of-{tmp_path}"


def living(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if mark in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return [process for process in found if "pipelines.guard" not in process.info["cmdline"]]


def start(*arguments: str) -> Guarded:
    guarded = Guarded(["family", *arguments], environment())
    assert next(lines(guarded.output())) == "ready"
    return guarded


def test_output_and_exit_code(family: str) -> None:
    Path("hello.py").write_text("import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)\n")
    with Guarded(["hello"], environment(PYTHONUNBUFFERED="1")) as guarded:
        assert b"".join(guarded.output()) == b"out\nerr\n"
        assert guarded.exit_code() == 3


def test_a_signal_is_128_and_its_number(family: str) -> None:
    Path("hello.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with Guarded(["hello"], environment()) as guarded:
        assert guarded.exit_code() == 137


def test_end_ends_children_orphans_and_other_sessions(family: str) -> None:
    with start(family, "setsid") as guarded:
        assert len(living(family)) >= 4
        guarded.end()
        assert guarded.exit_code() == 130
    assert living(family) == []


def test_what_the_command_leaves_behind_is_ended(family: str) -> None:
    with start(family, "ends", "setsid") as guarded:
        assert guarded.exit_code() == 7
    assert living(family) == []


def test_a_stubborn_command_is_killed_after_the_grace_period(family: str) -> None:
    with start(family, "stubborn") as guarded:
        begin = time.monotonic()
        assert guarded._guard.stdin is not None
        guarded._guard.stdin.close()  # as when the flow is killed; one that asks for the end waits STOP_SECONDS
        assert guarded.exit_code() == 137
        assert time.monotonic() - begin > GRACE_SECONDS
    assert living(family) == []


def test_a_killed_guard_takes_its_session_with_it(family: str) -> None:
    with Guarded(["family", family], environment()) as guarded:
        output = lines(guarded.output())
        assert next(output) == "ready"
        os.kill(guarded._guard.pid, signal.SIGKILL)
        assert list(output) == []
        assert guarded.exit_code() == 137
    assert living(family) == []


def test_a_killed_owner_takes_all_with_it(family: str) -> None:
    code = "import sys; from pipelines.guard import Guarded\nfor p in Guarded(sys.argv[1:], {}).output(): print('got')"
    command = [sys.executable, "-uc", code, "family", family, "setsid"]
    owner = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"got\n"
    owner.kill()
    owner.communicate()
    wait_for(lambda: not living(family), seconds=60)
