"""What the command line says of a project without running anything of it."""

import json
import re
from pathlib import Path

import pytest

from pipelines.graph import Stage
from pipelines.status import following
from tests.pipelines.conftest import run_pipelines
from tests.project import ROOT


def test_what_needs_a_changed_stage_will_follow() -> None:
    """base is changed: what needs it follows, through sft too; reward does not; a changed one is changed itself."""
    needs = {"prepare": (), "base": ("prepare",), "sft": ("base",), "reward": ("prepare",), "ppo": ("sft", "reward")}
    graph = {name: Stage(name, needed, ()) for name, needed in needs.items()}
    changed = {name: ["x modified"] if name == "base" else [] for name in graph}
    assert following(graph, changed) == {"prepare": [], "base": [], "sft": ["base"], "reward": [], "ppo": ["base"]}


def test_status_in_a_pipe_is_one_json_object(toy: Path) -> None:
    done = run_pipelines(toy, "status", "--json")
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)
    assert states["sft"] == {"state": "changed", "changed": ["never run"], "after": []}


def test_env_tells_what_an_issue_asks_for() -> None:
    done = run_pipelines(ROOT, "env", "--json")
    found = json.loads(done.stdout)
    assert re.fullmatch("[0-9a-f]{40}", found["commit"])
    assert found["cpus"] >= 1
    assert found["packages"]["torch"]
    assert found["compute"]["threads"] >= 1
    assert str(Path.home()) not in done.stdout
    assert str(ROOT) not in done.stdout


def test_a_report_that_is_not_there_is_a_sentence_and_a_remedy(toy: Path) -> None:
    done = run_pipelines(toy, "report")
    assert done.returncode == 2
    assert "no report yet" in done.stderr
    assert "python -m pipelines run" in done.stderr
    (toy / "reports").mkdir(exist_ok=True)
    (toy / "reports" / "index.html").write_text("<p>x")
    found = run_pipelines(toy, "report")
    assert (found.returncode, found.stdout.strip()) == (0, (toy / "reports/index.html").resolve().as_uri())
    assert run_pipelines(toy, "report", "--path").stdout == "reports/index.html\n"


@pytest.mark.parametrize(("command", "missing"), [("report", "dvc.yaml"), ("preset", "presets")])
def test_outside_of_a_project_the_cause_is_told(tmp_path: Path, command: str, missing: str) -> None:
    done = run_pipelines(tmp_path, command)
    assert done.returncode == 2
    assert f"{missing}: no such f" in done.stderr
    assert "run from the repository's root" in done.stderr


def test_a_wrong_command_and_option_suggest_the_nearest() -> None:
    for words, nearest in ((["stauts"], "status"), (["run", "--forse"], "--force")):
        done = run_pipelines(ROOT, *words, NO_COLOR="1", COLUMNS="80")
        assert done.returncode == 2
        assert nearest in done.stderr
        assert "\x1b" not in done.stderr


def test_data_validate_ends_with_2_and_names_the_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a sound row"}\n{"text": null}\n')
    done = run_pipelines(ROOT, "data", "validate", str(file), "--json")
    assert done.returncode == 2
    assert [problem["where"] for problem in json.loads(done.stdout)["problems"]] == [f"{file} line 2: text"]
    file.write_text('{"text": "a sound row"}\n')
    assert run_pipelines(ROOT, "data", "validate", str(file)).returncode == 0


def test_data_import_suggests_the_nearest_form_and_overwrites_nothing(tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text('{"instruction": "Say hi", "output": "hi"}\n')
    wrong = run_pipelines(ROOT, "data", "import", str(file), "--from", "alpacca", "--out", str(out))
    assert wrong.returncode == 2
    assert "alpaca" in wrong.stderr
    command = ("data", "import", str(file), "--from", "alpaca", "--out", str(out))
    assert run_pipelines(ROOT, *command).returncode == 0
    assert json.loads(out.read_text()) == {"prompt": "Say hi", "completion": "hi"}
    assert run_pipelines(ROOT, *command).returncode == 2
