"""A run started as from Prefect's page: deployed and executed by `python -m pipelines serve`, cancelled there."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import ROOT, Api, environment, make_repository, wait_for
from tests.pipelines.test_guard import FAMILY, living
from triplex.runs.errors import Exit
from triplex.runs.params import load_yaml

Deployed = tuple[Path, dict[str, Any], str]  # see the fixture
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, api: Api) -> Iterator[Deployed]:
    """A repository of two stages, its deployment, the mark of the second stage's processes; it is served."""
    folder = tmp_path_factory.mktemp("deployed")
    mark = f"mark-of-{folder}"
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
    make_repository(folder, {"family.py": FAMILY, "params.yaml": "seed: 1\n", "dvc.yaml": stages})
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    env = environment(PREFECT_API_URL=api.url)
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "pipelines", "serve"], cwd=folder, env=env, stdout=log, stderr=log
        )
    (deployment,) = wait_for(lambda: api.post("/deployments/filter"))
    yield folder, deployment, mark
    running.terminate()
    assert running.wait(60) == Exit.TERMINATED
    assert "Warning" not in (folder / "log").read_text()


def state_when(api: Api, run: dict[str, Any], types: set[str]) -> dict[str, Any]:
    def state() -> dict[str, Any] | None:
        found = api.client.get(f"/flow_runs/{run['id']}").json()["state"]
        return found if found["type"] in types else None

    return wait_for(state)


def test_a_mistake_then_a_changed_parameter_then_cancelling(deployed: Deployed, api: Api) -> None:
    folder, deployment, mark = deployed
    create = f"/deployments/{deployment['id']}/create_flow_run"

    state = state_when(api, api.post(create, parameters={"params": {"sead": 3}}), FINAL)
    assert state["type"] == "FAILED", (folder / "log").read_text()
    assert "did you mean 'seed'?" in state["message"]

    run = api.post(create, parameters={"stages": ["sleep"], "params": {"seed": 2}})
    wait_for(lambda: len(living(mark)) >= 4)
    assert load_yaml(folder / "params.yaml") == load_yaml(folder / "quick") == {"seed": 2}
    waiting = api.post(create, parameters={"stages": ["quick"]})
    api.post(f"/flow_runs/{run['id']}/set_state", state={"type": "CANCELLING"})
    wait_for(lambda: not living(mark), 60)
    assert state_when(api, run, FINAL)["type"] == "CANCELLED"
    stages = api.stages(run)
    assert {name: stage["state_name"] for name, stage in stages.items()} == {"quick": "Ran", "sleep": "Stopped"}
    assert not (folder / "never").exists()
    assert state_when(api, waiting, FINAL)["type"] == "COMPLETED"
    assert "at capacity" not in (folder / "log").read_text()


def test_prefects_own_deployment_is_the_same(deployed: Deployed) -> None:
    _, served, _ = deployed
    (declared,) = load_yaml(ROOT / "prefect.yaml")["deployments"]
    same = ("name", "description", "entrypoint")
    assert [declared[key] for key in same] == [served[key] for key in same]
    assert list(declared["parameters"]) == list(served["parameter_openapi_schema"]["properties"])
