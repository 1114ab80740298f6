import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages import prepare
from triplex.data.tables import SCHEMAS, read_table

PARAMS = """
seed: 3
compute: {executor: local, num_workers: 1, threads: 1, precision: float32, max_failures: 0,
          deepspeed: {zero_stage: 0, offload: false}}
data:
  source:
    kind: files
    files: [{path: reviews.csv, sha256: SHA256}]
    columns: {text: body, label: sentiment}
  prompt_words: 2
  min_completion_words: 2
  max_words: 20
  eval_frac: 0.3
  num_eval_prompts: 5
"""
STAGE = """
stages:
  prepare:
    cmd: python -m stages.prepare
    outs: [data/processed]
"""
ROWS = [f'"the {n}th film, {tone}",{label}' for n in range(30) for label, tone in enumerate(["a bore", "a joy"])]
ROOT = Path(__file__).parents[2]


def write_project(folder: Path, rows: list[str]) -> None:
    """The reviews, and the parameters with their hash."""
    reviews = "\n".join(["body,sentiment", *rows, ""])
    (folder / "reviews.csv").write_text(reviews)
    (folder / "params.yaml").write_text(PARAMS.replace("SHA256", hashlib.sha256(reviews.encode()).hexdigest()))
    (folder / "dvc.yaml").write_text(STAGE)


def run(project: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.prepare"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("stages_here")
def test_the_stage_writes_five_tables_and_the_card_twice_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, and in this one."""
    write_project(tmp_path, ROWS)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "60 rows read, 60 kept" in done.stdout
    out = tmp_path / "data" / "processed"
    sizes = {name: read_table(out / f"{name}.parquet", schema).num_rows for name, schema in SCHEMAS.items()}
    card = json.loads((out / "card.json").read_text())
    assert card["tables"] == sizes
    assert min(sizes.values()) > 0
    assert card["labels"] == {"positive": 30, "negative": 30, "unknown": 0}
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.chdir(tmp_path)
    prepare.main()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.usefixtures("stages_here")
def test_a_bad_row_ends_the_stage_in_words_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_project(tmp_path, [*ROWS, '"one more film, fine",maybe'])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        prepare.main()
    assert "error: reviews.csv row 61: label: unknown label 'maybe'" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
