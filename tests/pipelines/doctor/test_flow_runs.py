import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from pipelines.doctor.flow_runs import DATABASE
from tests.pipelines.conftest import environment, wait_for

#: a real flow with a task that never ends
FLOW = """
import time
from pipelines import environment
environment.prepare()
from pipelines.request import one_flow_at_a_time
from prefect import flow, task

@task
def stage():
    print("running", flush=True)
    time.sleep(600)

@flow
def triplex():
    with one_flow_at_a_time():
        stage()

triplex()
"""
QUERIES = {
    "flow_run": "SELECT state_type FROM flow_run",
    "task_run": "SELECT state_type FROM task_run",
}
LOOK = """
from pipelines.doctor.flow_runs import dead_flow_runs
for finding in list(dead_flow_runs()):
    print(finding.meaning)
    print(finding.repair())
print(len(list(dead_flow_runs())), "left")
"""


def states(table: str) -> list[str]:
    with sqlite3.connect(DATABASE) as connection:
        return [state for (state,) in connection.execute(QUERIES[table])]


def look() -> list[str]:
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_killed_flow_is_marked_as_crashed(finished: Path) -> None:
    assert look() == ["0 left"]  # no database yet
    command = [sys.executable, "-c", FLOW]
    env = environment(PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="true")
    flow = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert flow.stdout
        assert flow.stdout.readline() == b"running\n"
        wait_for(lambda: "RUNNING" in states("flow_run"))
        assert look() == ["0 left"]  # it lives
    finally:
        os.killpg(flow.pid, signal.SIGKILL)
        flow.wait()
    assert states("flow_run") == ["RUNNING"]
    shown, done, left = look()
    assert shown == "shown as running, and no flow runs in this project"
    assert done.startswith("marked as crashed")
    assert states("flow_run") == ["CRASHED"]
    assert "RUNNING" not in states("task_run")
    assert left == "0 left"
