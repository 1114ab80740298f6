import shutil
from pathlib import Path

import pytest
from dvc.exceptions import DvcException

from pipelines.doctor.lock_file import broken_lock, contradicted_lock
from tests.pipelines.doctor.conftest import changed, contents, git, repro

TORN = "schema: '2.0'\nstages:\n  one:\n    cmd: python step.py models/one\n    deps:\n    - path: step.py\n      md"
CONFLICT = "schema: '2.0'\n<<<<<<< HEAD\nstages:\n  one:\n=======\n>>>>>>> other\n"


def test_a_finished_project_has_a_sound_lock(finished: Path) -> None:
    assert [*broken_lock(), *contradicted_lock()] == []


@pytest.mark.parametrize("text", ["", TORN, CONFLICT, "stages: {}\n", "\0\0\0\0"], ids=repr)
def test_bad_80_a_broken_lock_is_restored_from_the_run_cache(finished: Path, text: str) -> None:
    whole, models = Path("dvc.lock").read_bytes(), contents("models")
    Path("dvc.lock").write_text(text)
    with pytest.raises(DvcException):
        changed()
    (finding,) = broken_lock()
    assert finding.repair
    assert "2 stages from the run cache" in finding.repair()
    assert Path("dvc.lock").read_bytes() == whole
    assert Path(".triplex/set-aside/dvc.lock").read_text() == text
    assert contents("models") == models
    assert changed() == {}


def test_bad_80_a_broken_lock_is_restored_from_git_where_the_run_cache_is_lost(finished: Path) -> None:
    whole = Path("dvc.lock").read_bytes()
    git("add", "dvc.lock")
    git("commit", "--quiet", "--message", "done")
    shutil.rmtree(".dvc/cache/runs")
    Path("dvc.lock").write_bytes(b"")
    (finding,) = broken_lock()
    assert finding.repair
    assert "2 from the last commit" in finding.repair()
    assert Path("dvc.lock").read_bytes() == whole
    assert changed() == {}


def test_a_lock_is_not_restored_to_other_parameters_than_today_s(finished: Path) -> None:
    git("add", "dvc.lock")
    git("commit", "--quiet", "--message", "seed 1")
    Path("params.yaml").write_text("seed: 2\n")
    repro()
    whole, models = Path("dvc.lock").read_bytes(), contents("models")
    Path("dvc.lock").write_bytes(b"")
    (finding,) = broken_lock()
    assert finding.repair
    finding.repair()
    assert Path("dvc.lock").read_bytes() == whole
    assert contents("models") == models


def test_sizes_that_dvc_does_not_look_at_are_those_of_the_files(finished: Path) -> None:
    whole = Path("dvc.lock").read_text()
    for path in ("models/two.txt", "step.py"):
        size = Path(path).stat().st_size
        damaged = whole.replace(f"size: {size}\n", f"size: {size + 1}\n")
        assert damaged != whole
        Path("dvc.lock").write_text(damaged)
        assert changed() == {}  # hence the check
        (finding,) = contradicted_lock()
        assert path in finding.where
        assert finding.repair
        finding.repair()
        assert Path("dvc.lock").read_text() == whole


def test_a_hash_that_dvc_does_not_know_is_found(finished: Path) -> None:
    whole = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(whole.replace("hash: md5", "hash: mD5", 1))
    (finding,) = broken_lock()
    assert "no such hash as 'mD5'" in finding.meaning
    assert finding.repair
    finding.repair()
    assert Path("dvc.lock").read_text() == whole


def test_the_number_of_files_is_held_to_the_folder(finished: Path) -> None:
    whole = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(whole.replace("nfiles: 3", "nfiles: 7"))
    (finding,) = contradicted_lock()
    assert "in 7 files written" in finding.meaning
    assert "in 3 files there" in finding.meaning


def test_the_size_of_a_folder_that_git_keeps_is_held_to_the_workspace(finished: Path) -> None:
    Path("plugins").mkdir()
    Path("plugins/mine.py").write_text("# 12 bytes.\n")
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text().replace("deps: [step.py]", "deps: [step.py, plugins]"))
    repro()
    assert list(contradicted_lock()) == []
    whole = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(whole.replace("size: 12\n", "size: 13\n"))
    (finding,) = contradicted_lock()
    assert finding.where.endswith("one: plugins")


def test_what_is_neither_in_the_cache_nor_in_the_workspace_is_not_judged(finished: Path) -> None:
    shutil.rmtree(".dvc/cache")
    shutil.rmtree("models")
    assert [*broken_lock(), *contradicted_lock()] == []
