import json
import os
import shutil
from pathlib import Path

import pytest

from pipelines.doctor.locked import stages_in_lock
from pipelines.doctor.objects import corrupt_objects, corrupt_runs
from tests.pipelines.doctor.conftest import changed, contents, dvc, repro, rot, stored


def out_of(stage: str) -> str:
    return str(stages_in_lock()[stage]["outs"][0]["md5"])


def test_a_sound_cache_has_no_findings(finished: Path) -> None:
    assert [*corrupt_objects(), *corrupt_runs()] == []


def test_a_corrupt_object_is_named_removed_and_made_again(finished: Path) -> None:
    models, damaged = contents("models"), stored(out_of("two"))
    rot(damaged)
    assert changed() == {}  # DVC does not see it
    (finding,) = corrupt_objects()
    assert finding.where == str(damaged)
    assert "models/two.txt (two)" in finding.meaning
    assert finding.repair
    finding.repair()
    assert not damaged.exists()
    assert list(corrupt_objects()) == []
    shutil.rmtree("models")
    repro()
    assert contents("models") == models
    assert changed() == {}


def test_a_file_of_a_folder_is_named_by_its_path(finished: Path) -> None:
    listing = json.loads(stored(out_of("one")).read_text())
    rot(stored(listing[1]["md5"]))
    (finding,) = corrupt_objects()
    assert "models/one/1.txt (one)" in finding.meaning


def test_a_corrupt_list_of_a_folder_is_found(finished: Path) -> None:
    rot(stored(out_of("one")))
    (finding,) = corrupt_objects()
    assert "models/one (one)" in finding.meaning
    assert finding.repair
    finding.repair()
    shutil.rmtree("models")
    repro()
    assert changed() == {}


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_the_workspace_s_link_to_a_corrupt_object_goes_with_it(finished: Path, link: str) -> None:
    dvc("config", "cache.type", link)
    shutil.rmtree("models")
    dvc("checkout", "--quiet")
    models, damaged = contents("models"), stored(out_of("two"))
    rot(damaged)
    assert contents("models") != models
    (finding,) = corrupt_objects()
    assert finding.repair
    assert "models/two.txt" in finding.repair()
    assert not os.path.lexists("models/two.txt")
    repro()
    assert contents("models") == models


def test_an_object_of_an_earlier_run_is_told_with_its_command(finished: Path) -> None:
    before = out_of("two")
    Path("params.yaml").write_text("seed: 2\n")
    repro()
    rot(stored(before))
    (finding,) = corrupt_objects()
    assert "an earlier run of `python step.py models/two.txt`" in finding.meaning


@pytest.mark.parametrize(
    ("old", "new"),
    [("size: ", "sise: "), ("size: ", "size: 9"), ("models/two.txt", "models/tvo.txt"), ("md5: ", "md5: 0")],
)
def test_a_corrupt_record_of_a_run_is_found(finished: Path, old: str, new: str) -> None:
    path = next(p for p in Path(".dvc/cache/runs").rglob("*") if p.is_file() and "models/two.txt" in p.read_text())
    path.write_text(path.read_text().replace(old, new))
    (finding,) = corrupt_runs()
    assert finding.where == str(path)
    assert finding.repair
    finding.repair()
    assert list(corrupt_runs()) == []
    assert changed() == {}


def test_an_empty_folder_of_the_run_cache_is_found(finished: Path) -> None:
    path = next(p for p in Path(".dvc/cache/runs").rglob("*") if p.is_file())
    path.unlink()
    (finding,) = corrupt_runs()
    assert finding.where == str(path.parent)
    assert finding.repair
    finding.repair()
    Path("dvc.lock").unlink()
    repro()  # falls over the folder otherwise
    assert changed() == {}
