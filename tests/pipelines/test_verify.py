"""Verification of a toy run of two stages, one of which trains: planted differences are found and named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.clone import first_rows
from pipelines.proof import Proof, prove
from pipelines.rehash import Locked, read_lock
from tests.pipelines.conftest import ROOT, environment, make_repository
from triplex.runs.errors import InputError
from triplex.runs.manifest import write_manifest

DVC_YAML = """\
stages:
  prepare:
    cmd: python step.py prepare
    deps: [step.py]
    params: [seed]
    outs: [data/rows, reports/manifests/prepare.json]
  sft:
    cmd: python step.py sft
    deps: [step.py, data/rows]
    params: [seed, sft]
    outs: [models/sft, reports/sft.tsv, reports/digests/sft.jsonl, reports/manifests/sft.json]
"""
#: five steps of "training", 0.1 s each; TOY_NOISE moves a weight after step 3, TOY_MACHINE is another machine's name
STEP = """\
import os, platform, sys, time
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq, torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from triplex.runs.digests import DigestRows, digest, publish
from triplex.runs.manifest import check_inputs, declarations, write_manifest

platform.machine = lambda: os.environ.get("TOY_MACHINE", "toy")
name, params = sys.argv[1], YAML(typ="safe").load(Path("params.yaml"))
declared = declarations()[name]
inputs = check_inputs(declared["deps"])
if name == "prepare":
    Path("data/rows").mkdir(parents=True)
    pq.write_table(pa.table({"ids": [[1, 2], [3, 4], [params["seed"], 6]]}), "data/rows/rows.parquet")
else:
    state = Path(".triplex/state/sft-0")
    state.mkdir(parents=True, exist_ok=True)
    rows, weight, losses = DigestRows(state), torch.zeros(2, 3), ["step\\tloss"]
    rows.resume(0)
    data = torch.tensor(pq.read_table("data/rows/rows.parquet")["ids"].to_pylist())
    for step in range(5):
        weight = weight + data.float().mean() * params["sft"]["rate"] / (step + 3)
        if step == 3:
            weight[1, 2] += float(os.environ.get("TOY_NOISE", 0))
        losses.append(f"{step}\\t{weight.sum().item()}")
        rows.append({"step": step, "data": digest([data]), "weights": digest([weight])})
        time.sleep(0.1)
    Path("models/sft").mkdir(parents=True, exist_ok=True)
    save_file({"head": torch.ones(2), "trunk": weight}, "models/sft/model.safetensors")
    Path("reports").mkdir(exist_ok=True)
    Path("reports/sft.tsv").write_text("\\n".join(losses) + "\\n")
    publish("sft", state)
write_manifest({"stage": name, "params": params, "inputs": inputs}, declared["outs"])
"""


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.org", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def dvc_repro(folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=folder, check=True, env=environment(PATH=path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"dvc.yaml": DVC_YAML, "step.py": STEP, "params.yaml": "seed: 7\nsft: {rate: 0.25}\n"}
    folder = make_repository(tmp_path_factory.mktemp("verify"), files)
    (folder / ".gitignore").write_text("/.triplex/\n/.dvc/site/\n/data/\n/models/\n/reports/\n")
    git(folder, "rm", "-rq", "--cached", "--ignore-unmatch", ".dvc/site")
    git(folder, "commit", "-qam", "ignore")
    dvc_repro(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, in which the test stands; the stages of its clones find this repository."""
    without_databases = shutil.ignore_patterns("site")  # of DVC, which come and go
    folder = Path(shutil.copytree(finished, tmp_path / "run", symlinks=True, ignore=without_databases))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def proof(run: str, stage: str | None = None, steps: int | None = None) -> Proof:
    return prove(run, stage, steps, Console(soft_wrap=True))


def told(capsys: pytest.CaptureFixture[str], stage: str | None = None, steps: int | None = None) -> tuple[bool, str]:
    """Whether the run is proved, and what was said."""
    return proof(".", stage, steps).matches, capsys.readouterr().out


def test_a_whole_run_matches_and_leaves_nothing_behind(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "models").rglob("*")}
    proved, text = told(capsys)
    assert proved
    assert "MATCH: prepare, sft" in text
    assert "reproducibility D1: bit-identical" in text
    assert {path: path.stat().st_mtime_ns for path in (run / "models").rglob("*")} == before


def test_a_flipped_weight_is_named_with_tensor_element_and_both_values(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "models/sft/model.safetensors"
    tensors = load_file(path)
    written = tensors["trunk"][1, 0].item()
    tensors["trunk"][1, 0] = 8.0
    path.unlink()
    save_file(tensors, path)
    proved, text = told(capsys)
    assert not proved
    assert f"models/sft/model.safetensors: tensor trunk[1, 0]: 8.0 | {written!r} (here | as it was written)" in text


def test_a_changed_token_is_named_with_column_and_row(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "data/rows/rows.parquet"
    path.unlink()
    pq.write_table(pa.table({"ids": [[1, 2], [3, 5], [7, 6]]}), path)
    proved, text = told(capsys)
    assert not proved
    assert "data/rows/rows.parquet: column ids, row 1[1]: 5 | 4" in text


def test_a_script_gets_one_json_object(run: Path) -> None:
    """What is told line by line goes to standard error."""
    (run / "data/rows/rows.parquet").unlink()
    done = CliRunner().invoke(app, ["verify", "--json"])
    assert done.exit_code == 1
    difference = "data/rows/rows.parquet: missing, though the manifest of prepare has it"
    found = {"stage": "prepare", "difference": difference, "level": None}
    assert json.loads(done.stdout) == {"matches": False, "level": None, "stages": [found]}
    assert "DIFFERS: prepare" in done.stderr


def test_without_the_cache_the_hashes_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / ".dvc/cache")
    (run / "reports/sft.tsv").unlink()
    (run / "reports/sft.tsv").write_text("step\tloss\n")
    proved, text = told(capsys)
    assert not proved
    assert "reports/sft.tsv: SHA-256" in text
    assert "the manifest of sft says" in text


def test_a_forged_manifest_does_not_fit_the_lock(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "reports/sft.tsv").write_text("step\tloss\n")
    write_manifest(
        {"stage": "sft", "params": {}, "inputs": {}}, ["models/sft", "reports/sft.tsv", "reports/digests/sft.jsonl"]
    )
    proved, text = told(capsys)
    assert not proved
    assert "dvc.lock says" in text


def test_a_changed_parameter_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "params.yaml").write_text("seed: 7\nsft: {rate: 0.5}\n")
    git(run, "commit", "-qam", "rate")
    proved, text = told(capsys)
    assert not proved
    assert "sft.rate: 0.5 | 0.25" in text


def test_a_changed_line_of_code_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "step.py").write_text(STEP + "print()\n")
    git(run, "commit", "-qam", "line")
    proved, text = told(capsys)
    assert not proved
    assert "step.py: not what prepare ran on" in text


def test_what_is_not_committed_is_named(run: Path) -> None:
    (run / "step.py").write_text(STEP + "print()\n")
    (run / "new.py").touch()  # no stage reads it
    with pytest.raises(InputError, match=r"differs from its last commit: step.py\n") as caught:
        proof(".")
    assert "`git add step.py && git commit`" in caught.value.remedy


def test_a_run_that_is_not_reproduced_is_named_with_file_tensor_and_step(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_NOISE", "0.5")
    proved, text = told(capsys, stage="sft")
    assert not proved
    assert "models/sft/model.safetensors: tensor trunk[1, 2]" in text
    assert "first at step 3: weights" in text
    assert "DIFFERS: sft" in text
    assert "D0" in text


@pytest.mark.parametrize(("steps", "same"), [(3, True), (4, False), (50, False)])
def test_the_first_steps_are_compared_by_their_digests(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, steps: int, same: bool
) -> None:
    """The noise comes in the fourth step."""
    monkeypatch.setenv("TOY_NOISE", "0.5")
    proved, text = told(capsys, steps=steps)
    assert proved == same
    assert (f"MATCH: the first {steps} steps of sft" in text) == same
    assert ("sft: step 3: weights" in text) != same


@pytest.mark.parametrize(("noise", "level"), [("0", "D1"), ("1e-5", "D3"), ("0.5", "D0")])
def test_in_another_environment_the_level_is_told(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, noise: str, level: str
) -> None:
    monkeypatch.setenv("TOY_MACHINE", "vax")
    monkeypatch.setenv("TOY_NOISE", noise)
    proved, text = told(capsys, stage="sft")
    assert proved == (level != "D0")
    assert f"reproducibility {level}" in text
    assert 'environment.machine: "toy" | "vax"' in text


def test_of_a_stage_that_is_ended_its_own_rows_are_read_and_nobody_is_left(tmp_path: Path) -> None:
    """Another stage, ended before, has left rows too."""
    for name in ("base-0", "sft-0"):
        (tmp_path / "clone/.triplex/state" / name).mkdir(parents=True)
    (tmp_path / "clone/.triplex/state/base-0/digests.jsonl").write_text('{"step": 0, "data": "other"}\n' * 5)
    rows = '{"step": 0}\\n{"step": 1}\\n{"st'
    command = f"printf '{rows}' > .triplex/state/sft-0/digests.jsonl; sleep 1234.5; touch done"
    assert first_rows(tmp_path / "clone", "sft", Locked(command, {}, {}, {}), 2) == [{"step": 0}, {"step": 1}]
    assert not [p for p in psutil.process_iter(["cmdline"]) if "1234.5" in (p.info["cmdline"] or [])]
    assert not (tmp_path / "clone/done").exists()


def test_an_older_revision_comes_from_the_cache(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(run, "add", "--force", "dvc.lock")
    git(run, "commit", "-qm", "lock")
    shutil.rmtree(run / "models")
    assert proof("HEAD", "sft").matches
    assert "MATCH: sft" in capsys.readouterr().out


def test_mistakes_are_told(run: Path) -> None:
    with pytest.raises(InputError, match="neither a folder nor a git revision"):
        proof("v9.9")
    with pytest.raises(InputError, match="did you mean 'sft'"):
        proof(".", "stf")
    with pytest.raises(InputError, match="nothing was trained"):
        proof(".", "prepare", 3)
    (run / "dvc.lock").write_text("")
    with pytest.raises(InputError, match="missing or empty"):
        proof(".")


def test_the_lock_is_read_as_dvc_wrote_it(run: Path) -> None:
    lock = read_lock(run)
    assert list(lock) == ["prepare", "sft"]
    assert lock["sft"].cmd == "python step.py sft"
    assert lock["sft"].params == {"params.yaml": {"seed": 7, "sft": {"rate": 0.25}}}
    assert set(lock["sft"].deps) == {"step.py", "data/rows"}
    assert lock["sft"].outs["models/sft"].endswith(".dir")
    assert torch.equal(load_file(run / "models/sft/model.safetensors")["head"], torch.ones(2))
