"""However a flow ends, its stages end with it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.pipelines.conftest import Api, environment, make_repository, wait_for
from tests.pipelines.test_guard import FAMILY, living

SURVIVAL_SECONDS = 10.0
SECRETS = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "GITHUB_TOKEN", "MY_PASSWORD")
PLANTED = {name: f"planted-8d02-{name}" for name in SECRETS} | dict.fromkeys(
    ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"), "me:planted-8d02"
)

STAGES = """\
stages:
  sleep:
    cmd: python family.py MARK setsid
    deps: [family.py]
    outs: [never]
  after:
    cmd: touch after
    deps: [never]
    outs: [after]
"""


@pytest.fixture(scope="module")
def sleeping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"family.py": FAMILY, "params.yaml": "seed: 1\n", "dvc.yaml": STAGES}
    return make_repository(tmp_path_factory.mktemp("sleeping"), files)


@pytest.fixture
def sleeper(sleeping: Path, tmp_path: Path) -> tuple[Path, str]:
    """A repository whose first stage sleeps in children and orphans, and the mark in their command lines."""
    folder, mark = Path(shutil.copytree(sleeping, tmp_path / "sleeper")), f"mark-of-{tmp_path}"
    (folder / "dvc.yaml").write_text(STAGES.replace("MARK", mark))
    return folder, mark


def start(folder: Path, mark: str, **env: str) -> "subprocess.Popen[bytes]":
    """A flow, in a process group as a terminal would give it, whose stage has started all its processes."""
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "pipelines", "run"]
        flow = subprocess.Popen(
            command, cwd=folder, env=environment(**env), stdout=log, stderr=log, start_new_session=True
        )
    wait_for(lambda: "| ready" in (folder / "log").read_text() or flow.poll() is not None)
    assert len(living(mark)) >= 4, (folder / "log").read_text()
    return flow


@pytest.mark.parametrize(
    ("number", "code", "state"), [(signal.SIGTERM, 143, "CRASHED"), (signal.SIGKILL, -9, "RUNNING")]
)
def test_signals(sleeper: tuple[Path, str], api: Api, number: int, code: int, state: str) -> None:
    folder, mark = sleeper
    flow = start(folder, mark, PREFECT_API_URL=api.url)
    flow.send_signal(number)
    wait_for(lambda: not living(mark), SURVIVAL_SECONDS)
    assert flow.wait(60) == code
    flow_run = api.last_run()
    assert flow_run["state_type"] == state
    assert not (folder / "after").exists()
    if state == "CRASHED":
        assert api.stages(flow_run)["sleep"]["state_name"] == "Stopped"


def test_a_killed_guard(sleeper: tuple[Path, str], api: Api) -> None:
    folder, mark = sleeper
    flow = start(folder, mark, PREFECT_API_URL=api.url)
    escaped = [process for process in living(mark) if os.getsid(process.pid) == process.pid]
    guards = [p for p in psutil.Process(flow.pid).children() if "pipelines.guard" in p.cmdline()]
    assert len(guards) == 1
    guards[0].kill()
    wait_for(lambda: set(living(mark)) <= set(escaped), SURVIVAL_SECONDS)
    for process in escaped:  # a process that left the session is beyond the reach of all but its guard
        process.kill()
    assert flow.wait(60) == 1
    assert api.stages(api.last_run())["after"]["state_name"] == "NotRun"


def test_ctrl_c_in_a_terminal_without_a_server(sleeper: tuple[Path, str]) -> None:
    """The server and the flow write nothing of the environment's secrets."""
    folder, mark = sleeper
    flow = start(folder, mark, **PLANTED)
    of_flow = psutil.Process(flow.pid).children(recursive=True)
    assert any("server" in process.cmdline() for process in of_flow)
    os.killpg(flow.pid, signal.SIGINT)
    wait_for(lambda: not living(mark), SURVIVAL_SECONDS)
    assert flow.wait(60) == 130
    wait_for(lambda: not any(process.is_running() for process in of_flow), SURVIVAL_SECONDS)
    log = (folder / "log").read_text()
    assert "sleep | Finished in state Stopped('after " in log
    assert json.loads((folder / ".dvc/tmp/rwlock").read_text()) == {}  # DVC has let go of what it read and wrote
    assert "Error logging to API" not in log
    assert "crash" not in log.lower()
    assert log.splitlines()[-2:] == [
        "Ctrl-C: sleep stopped; 2 of 2 stages: 1 stopped, 1 not run",
        "`python -m pipelines run` goes on",
    ]
    assert "login: .triplex/prefect/password" in log
    assert (folder / ".triplex/prefect/prefect.db").stat().st_size > 0
    assert [path for path in folder.rglob("*") if path.is_file() and b"planted-8d02" in path.read_bytes()] == []
