"""The flow for real: DVC stages, a Prefect server, the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.conftest import Api, environment, run_pipelines
from tests.pipelines.test_graph import NEEDS
from triplex.runs.params import load_yaml

NO_SERVER = "http://127.0.0.1:9/api"  # for what ends before it asks one


def names_of_states(api: Api) -> dict[str, str]:
    return {name: run["state_name"] for name, run in api.stages(api.last_run()).items()}


def test_a_first_run_a_lost_file_a_changed_parameter_and_a_forced_stage(toy: Path, api: Api) -> None:
    (toy / "meet").touch()  # so that it ends only if two stages run side by side
    done = run_pipelines(toy, "run", PREFECT_API_URL=api.url)
    assert done.returncode == 0, done.stderr
    flow_run = api.last_run()
    stages = api.stages(flow_run)
    assert flow_run["name"] == "all stages"
    assert {stage["name"]: stage["state_name"] for stage in stages.values()} == dict.fromkeys(NEEDS, "Ran")
    identifiers = {stage["id"]: name for name, stage in stages.items()}
    edges = {
        name: {identifiers[source["id"]] for source in stage["task_inputs"].get("wait_for", [])}
        for name, stage in stages.items()
    }
    assert edges == {name: set(needs) for name, needs in NEEDS.items()}
    assert flow_run["state"]["message"] == "9 of 9 stages: 9 ran"
    assert done.stdout == "report: reports/index.html, which `python -m pipelines report` opens\n"
    assert "sft | writing models/sft.txt" in done.stderr
    assert "sft | step 1/2" in done.stderr
    logs = api.post("/logs/filter", logs={"task_run_id": {"any_": [stages["sft"]["id"]]}})
    assert "writing models/sft.txt" in [log["message"] for log in logs]
    artifacts = {artifact["key"]: artifact for artifact in api.post("/artifacts/latest/filter")}
    assert {"triplex-metrics", "triplex-report", "triplex-progress"} <= set(artifacts)
    assert artifacts["triplex-progress"]["data"] == 100
    assert "data:image/png;base64,iVBOR" in artifacts["triplex-report"]["data"]
    of_stage = artifacts["triplex-train-ppo"]
    assert (of_stage["data"], of_stage["task_run_id"]) == (50, stages["train@ppo"]["id"])
    assert of_stage["description"] == "train@ppo: 1/2, 0:00:09 left, reward 0.5"

    clone = toy.parent / "clone"
    subprocess.run(["git", "clone", "--quiet", toy, clone], check=True)
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro"], cwd=clone, env=environment(), check=True, capture_output=True
    )
    assert load_yaml(clone / "dvc.lock") == load_yaml(toy / "dvc.lock")

    (toy / "models/sft.txt").unlink()
    done = run_pipelines(toy, "run", PREFECT_API_URL=api.url)
    assert done.returncode == 0
    told = dict(line.split(" | ")[1:] for line in done.stderr.splitlines() if " | " in line)  # the last line of each
    assert told["base"] == "up to date, same inputs"
    assert told["sft"].startswith("restored from DVC's cache in ")
    assert len(done.stderr.splitlines()) == len(NEEDS) + 3  # a line a stage, and three of Prefect's flow
    assert names_of_states(api) == {**dict.fromkeys(NEEDS, "Skipped"), "sft": "Restored"}
    names = {stage["name"] for stage in api.stages(api.last_run()).values()}
    assert {"sft (restored)", "base (up to date)"} < names

    arguments = ("run", "train", "-S", "grpo.learning_rate=3e-5")
    assert run_pipelines(toy, *arguments, PREFECT_API_URL=api.url).returncode == 0
    assert {name for name, state in names_of_states(api).items() if state == "Ran"} == {"train@grpo"}
    assert load_yaml(toy / "params.yaml")["grpo"]["learning_rate"] == 3e-5
    assert api.last_run()["parameters"]["params"] == {"grpo.learning_rate": 3e-5}
    assert api.last_run()["name"] == "train grpo.learning_rate=3e-05"

    assert run_pipelines(toy, "run", "sft", "--only", "--force", PREFECT_API_URL=api.url).returncode == 0
    assert names_of_states(api) == {"sft": "Ran"}


def test_a_failed_stage_stops_what_needs_it_and_nothing_else(toy: Path, api: Api) -> None:
    (toy / "fail").write_text("baselines")
    env = {"PREFECT_API_URL": api.url, "TRIPLEX_PARALLEL_STAGES": "1"}
    done = run_pipelines(toy, "run", "train@ppo", "reward", **env)
    assert done.returncode == 1
    stages = api.stages(api.last_run())
    assert {name: stage["state_name"] for name, stage in stages.items()} == {
        "prepare": "Ran",
        "base": "Ran",
        "sft": "Ran",
        "reward": "Ran",
        "baseline": "Failed",
        "train@ppo": "NotRun",
    }
    assert stages["baseline"]["state"]["message"].endswith(": error: no such luck; try again")
    assert stages["train@ppo"]["state"]["message"] == "needs baseline"
    assert api.last_run()["state"]["message"] == "baseline failed; not run: train@ppo"
    assert "Traceback" not in done.stderr
    assert (toy / "trace").read_text() == "+-" * 5  # one at a time


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "evalute"], "did you mean 'evaluate'?"),
        (["run", "-S", "ppo.learing_rate=1"], "did you mean 'ppo.learning_rate'?"),
        (["run", "--only"], "no stage named"),
        (["run", "-S", "seed=x"], "params.yaml: left as it was"),
        (["check"], "params.yaml line 2: seed = -1"),
    ],
)
def test_a_mistake_is_told_and_changes_nothing(toy: Path, arguments: list[str], message: str) -> None:
    stage = "from triplex.runs.params import Seed, Section\nclass Params(Section):\n    seed: Seed\n"
    (toy / "stages").mkdir()
    (toy / "stages/__init__.py").touch()
    (toy / "stages/prepare.py").write_text(stage)
    (toy / "dvc.yaml").write_text((toy / "dvc.yaml").read_text().replace("python step.py", "python -m stages.prepare"))
    if arguments == ["check"]:
        (toy / "params.yaml").write_text((toy / "params.yaml").read_text().replace("seed: 1", "seed: -1"))
    before = (toy / "params.yaml").read_text()
    done = run_pipelines(toy, *arguments, PREFECT_API_URL=NO_SERVER)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (toy / "params.yaml").read_text() == before


def test_check_and_status(toy: Path) -> None:
    done = run_pipelines(toy, "check")
    assert (done.returncode, done.stdout) == (0, "params.yaml: ok\n")
    repro = [sys.executable, "-m", "dvc", "repro", "base"]
    subprocess.run(repro, cwd=toy, env=environment(), check=True, capture_output=True)
    (toy / "params.yaml").write_text((toy / "params.yaml").read_text().replace("seed: 1", "seed: 2"))
    done = run_pipelines(toy, "status", COLUMNS="200")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(rows)[1:] == list(NEEDS)
    assert "changed" in rows["prepare"]
    assert "seed: 1 -> 2" in rows["prepare"]
    assert "will follow" in rows["base"]
    assert "never run" in rows["sft"]


def test_status_while_a_stage_runs(toy: Path) -> None:
    """DVC keeps who writes what in a file; here that is the process of the test."""
    me = {"pid": os.getpid(), "cmd": "dvc repro"}
    held = {"read": {}, "write": {str(toy / "data/prepared.txt"): me}}
    (toy / ".dvc/tmp").mkdir(exist_ok=True)
    (toy / ".dvc/tmp/rwlock").write_text(json.dumps(held))
    done = run_pipelines(toy, "status")
    assert done.returncode == 2
    assert f"a stage is running (process {os.getpid()})" in done.stderr


def test_one_flow_at_a_time(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.request import one_flow_at_a_time

    monkeypatch.chdir(toy)
    with one_flow_at_a_time():
        done = run_pipelines(toy, "run", "-S", "seed=2", PREFECT_API_URL=NO_SERVER)
    assert done.returncode == 75
    assert "flow: already running (process " in done.stderr
    assert "seed: 1" in (toy / "params.yaml").read_text()
