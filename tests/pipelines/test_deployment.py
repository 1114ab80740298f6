"""A run started as from Prefect's page: deployed and executed by `python -m pipelines serve`, cancelled there."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import ROOT, Api, environment, make_repository, wait_for
from tests.pipelines.test_guard import FAMILY, living
from triplex.runs.params import load_yaml

FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


@pytest.fixture
def deployed(tmp_path: Path, api: Api) -> Iterator[tuple[Path, str, str]]:
    """A repository of two stages, its deployment's id, the mark of the second stage's processes; it is served."""
    mark = f"mark-of-{tmp_path}"
    stages = f"""\
stages:
  quick:
    cmd: cp params.yaml quick
    params: [seed]
    outs: [quick]
  sleep:
    cmd: python family.py {mark} setsid
    deps: [family.py, quick]
    outs: [never]
"""
    folder = make_repository(tmp_path, {"family.py": FAMILY, "params.yaml": "seed: 1\n", "dvc.yaml": stages})
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    env = environment(PREFECT_API_URL=api.url)
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "serve"], cwd=folder, env=env, stdout=log, stderr=log
        )
    (deployment,) = wait_for(lambda: api.post("/deployments/filter"))
    assert (deployment["name"], deployment["entrypoint"]) == ("local", "pipelines/flow.py:triplex")
    yield folder, deployment["id"], mark
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 0


def state_when(api: Api, run: dict[str, Any], types: set[str]) -> dict[str, Any]:
    def state() -> dict[str, Any] | None:
        found = api.client.get(f"/flow_runs/{run['id']}").json()["state"]
        return found if found["type"] in types else None

    return wait_for(state)


def test_changed_parameters_then_a_mistake_then_cancelling(deployed: tuple[Path, str, str], api: Api) -> None:
    folder, deployment, mark = deployed
    create = f"/deployments/{deployment}/create_flow_run"

    run = api.post(create, parameters={"stages": ["quick"], "params": {"seed": 2}})
    state = state_when(api, run, FINAL)
    assert (state["type"], state["message"]) == ("COMPLETED", "1 of 1 stages: 1 ran"), (
        folder / "worker.log"
    ).read_text()
    assert load_yaml(folder / "params.yaml") == load_yaml(folder / "quick") == {"seed": 2}

    state = state_when(api, api.post(create, parameters={"params": {"sead": 3}}), FINAL)
    assert state["type"] == "FAILED"
    assert "did you mean 'seed'?" in state["message"]

    run = api.post(create, parameters={"stages": ["sleep"]})
    wait_for(lambda: len(living(mark)) >= 4)
    api.post(f"/flow_runs/{run['id']}/set_state", state={"type": "CANCELLING"})
    wait_for(lambda: not living(mark), 60)
    assert state_when(api, run, FINAL)["type"] == "CANCELLED"
    stages = api.stages(run)
    assert {name: stage["state_name"] for name, stage in stages.items()} == {"quick": "Skipped", "sleep": "Stopped"}
    assert os.listdir(folder).count("never") == 0
