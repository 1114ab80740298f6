"""Where two runs part: each planted difference is named, causes before effects."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.diff import Row, differences
from pipelines.steps import first_step
from triplex.runs.errors import InputError
from triplex.runs.manifest import write_manifest

DVC_YAML = """\
stages:
  base:
    cmd: python base.py
    deps: [base.py, data.txt]
    outs: [models/base, reports/digests/base.jsonl, reports/manifests/base.json]
  train:
    matrix: {algorithm: [ppo]}
    cmd: python train.py
    deps: [base.py, train.py, models/base]
    outs: ['models/${item.algorithm}', 'reports/manifests/train-${item.algorithm}.json']
"""
DIGESTS = [
    {"step": n, "data": f"d{n}", "sampled_ids": f"i{n}", "rewards": f"r{n}", "loss": n / 3, "weights": "w"}
    for n in range(4)
]


def write_run(folder: Path, digests: list[dict[str, Any]] = DIGESTS, rate: float = 0.1, **inputs: str) -> Path:
    """Two finished stages: their manifests and digests."""
    files = {
        "dvc.yaml": DVC_YAML, "params.yaml": "seed: 7\n",
        "models/base/w": f"{rate} {digests}", "models/ppo/w": str(rate),
        "reports/digests/base.jsonl": "".join(json.dumps(row) + "\n" for row in digests),
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    of_base = {"base.py": "b0", "data.txt": "t0"} | inputs
    params = {"seed": 7, "sft": {"rate": rate, "optim": {"betas": [0.9, 0.99]}}}
    write_manifest(
        {"stage": "base", "params": params, "inputs": of_base}, ["models/base", "reports/digests/base.jsonl"]
    )
    of_train = {"base.py": of_base["base.py"], "train.py": "t", "models/base": str(digests)}
    write_manifest({"stage": "train@ppo", "params": {"seed": 7}, "inputs": of_train}, ["models/ppo"])
    return folder


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make(tmp_path, monkeypatch, "one")


def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *arguments: Any, **inputs: Any) -> Path:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    write_run(Path(), *arguments, **inputs)
    return tmp_path / name


def changed(step: int, **values: Any) -> list[dict[str, Any]]:
    return [row | values if row["step"] >= step else row for row in DIGESTS]


def test_equal_runs_are_the_same(one: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(one, tmp_path / "other"))
    assert list(differences(one, other)) == []


@pytest.mark.parametrize("quantity", ["data", "sampled_ids", "rewards", "loss", "weights"])
def test_the_first_quantity_of_the_first_step(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantity: str
) -> None:
    """From step 2 on it differs, and what comes after it differs in every step from there."""
    order = list(DIGESTS[0])
    other = make(tmp_path, monkeypatch, "other", changed(2, **dict.fromkeys(order[order.index(quantity) :], "x")))
    found = list(differences(one, other))
    assert found[0] == Row("result", "base", f"step 2: {quantity}", str(DIGESTS[2][quantity]), "x")


def test_a_parameter_is_named_by_its_key_before_what_it_did(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make(tmp_path, monkeypatch, "other", changed(1, loss=9), rate=0.2)
    found = list(differences(one, other))
    assert found[0] == Row("params", "base", "sft.rate", "0.1", "0.2")
    assert found[1] == Row("result", "base", "step 1: loss", str(1 / 3), "9")
    assert found[2][:3] == ("result", "train@ppo", "models/ppo/w")


def test_code_and_data_are_told_apart_and_each_file_once(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make(tmp_path, monkeypatch, "other", **{"base.py": "b1", "data.txt": "t1"})
    assert list(differences(one, other)) == [
        Row("code", "base and 1 more", "base.py", "b0", "b1"),
        Row("inputs", "base", "data.txt", "t0", "t1"),
    ]


def test_a_run_that_stopped_earlier(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make(tmp_path, monkeypatch, "other", DIGESTS[:3])
    assert next(differences(one, other)) == Row("result", "base", "step 3", "there", "not reached")


def test_a_stage_that_has_not_run(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make(tmp_path, monkeypatch, "other")
    (other / "reports/manifests/train-ppo.json").unlink()
    assert list(differences(one, other)) == [Row("stages", "train@ppo", "", "there", "not run")]


def test_a_folder_without_a_run_and_a_damaged_manifest_are_told(one: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(one, tmp_path / "other"))
    path = other / "reports/manifests/base.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8'))
    with pytest.raises(InputError, match="damaged"):
        list(differences(one, other))
    shutil.rmtree(other / "reports")
    with pytest.raises(InputError, match="no manifests"):
        list(differences(one, other))


def test_the_command_says_so_and_exits(one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make(tmp_path, monkeypatch, "other", changed(2, rewards="x"))
    done = CliRunner().invoke(app, ["diff", str(one), str(other)])
    assert done.exit_code == 1
    assert "step 2: rewards" in done.output
    done = CliRunner().invoke(app, ["diff", str(one), str(other), "--json"])
    assert done.exit_code == 1
    found = {"kind": "result", "where": "base", "place": "step 2: rewards", "one": "r2", "other": "x"}
    assert json.loads(done.stdout)[0] == found
    done = CliRunner().invoke(app, ["diff", str(one), str(one)])
    assert done.exit_code == 0
    assert "the same" in done.output


def test_columns_have_the_runs_names_and_short_hashes_which_json_has_whole(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, loss = ["a" * 64, "b" * 64], -0.022554900031536818
    monkeypatch.chdir(one)
    write_run(Path(), **{"base.py": code[0]})
    make(tmp_path, monkeypatch, "other", changed(1, loss=loss), rate=0.2, **{"base.py": code[1]})
    done = CliRunner().invoke(app, ["diff", "../one", "."], env={"COLUMNS": "80"})
    words = [line.split() for line in done.stdout.splitlines() if line]
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert words[:2] == [
        ["code", "../one", ".", "in"],
        ["base.py", *("aaaaaaa", "bbbbbbb"), "base", "and", "1", "more"],
    ]
    assert ["step", "1:", "loss", str(1 / 3), str(loss), "base"] in words
    rows = json.loads(CliRunner().invoke(app, ["diff", "../one", ".", "--json"]).stdout)
    assert [rows[0]["one"], rows[0]["other"]] == code


def test_of_equal_rows_there_is_no_first_step() -> None:
    assert first_step(DIGESTS, DIGESTS) is None
    assert first_step([], []) is None
    found = first_step([{"part": "reward", "step": 0, "loss": 1}], [{"part": "reward", "step": 0, "loss": 2}])
    assert str(found) == "reward step 0: loss 1 | 2"
