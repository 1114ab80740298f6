import json
from pathlib import Path

from pipelines.doctor.locked import stages_in_lock
from pipelines.doctor.objects import corrupt_objects
from pipelines.doctor.outs import changed_outs, contradicted_manifests
from tests.pipelines.doctor.conftest import changed, contents, dvc, git, repro, rot, stored

MANIFESTED = """
import sys
from triplex.runs.manifest import write_manifest
from pathlib import Path
Path("models").mkdir(exist_ok=True)
Path("models/one.txt").write_text("one" + Path("params.yaml").read_text())
write_manifest({"stage": "one", "params": {}, "inputs": {}}, ["models/one.txt", "reports/manifests/one.json"])
"""


def test_what_the_stages_have_written_is_no_finding(finished: Path) -> None:
    assert list(changed_outs()) == []


def test_a_flipped_bit_is_found_and_restored_from_the_cache(finished: Path) -> None:
    models = contents("models")
    assert changed() == {}  # DVC remembers the hash beside size and time
    rot(Path("models/one/1.txt"))
    (finding,) = changed_outs()
    assert finding.where == "models/one/1.txt"
    assert finding.repair
    assert "restored" in finding.repair()
    assert contents("models") == models
    assert Path(".triplex/set-aside/models/one/1.txt").is_file()
    assert changed() == {}


def test_missing_and_added_files_are_named(finished: Path) -> None:
    Path("models/one/1.txt").unlink()
    Path("models/one/new.txt").write_text("mine")
    (finding,) = changed_outs()
    assert finding.where == "models/one/1.txt, models/one/new.txt"
    assert finding.repair
    finding.repair()
    assert list(changed_outs()) == []
    assert Path(".triplex/set-aside/models/one/new.txt").read_text() == "mine"  # nobody else has it


def test_without_a_sound_copy_the_out_is_made_again(finished: Path) -> None:
    models = contents("models")
    rot(Path("models/two.txt"))
    rot(stored(str(stages_in_lock()["two"]["outs"][0]["md5"])))
    (finding,) = changed_outs()
    assert finding.repair
    assert "dvc repro" in finding.repair()
    for corrupt in corrupt_objects():
        assert corrupt.repair
        corrupt.repair()
    repro()
    assert contents("models") == models


def test_a_folder_whose_list_is_lost_is_held_to_its_hash(finished: Path) -> None:
    stored(str(stages_in_lock()["one"]["outs"][0]["md5"])).unlink()
    assert list(changed_outs()) == []
    rot(Path("models/one/2.txt"))
    (finding,) = changed_outs()
    assert finding.where == "models/one"


def test_an_out_that_is_not_there_is_no_damage(finished: Path) -> None:
    Path("models/two.txt").unlink()
    assert list(changed_outs()) == []


def test_a_manifest_of_other_bytes_is_found(finished: Path) -> None:
    Path("step.py").write_text(MANIFESTED)
    Path("dvc.yaml").write_text(
        "stages:\n  one:\n    cmd: python step.py\n    deps: [step.py, params.yaml]\n"
        "    outs: [models/one.txt, reports/manifests/one.json]\n"
    )
    git("add", "--all")
    repro()
    assert [*changed_outs(), *contradicted_manifests()] == []

    manifest = Path("reports/manifests/one.json")
    text = manifest.read_text()
    manifest.write_text(text.replace('"stage": "one"', '"stage": "two"'))
    dvc("commit", "--force", "--quiet")  # DVC is told that all is as it should be
    (finding,) = contradicted_manifests()
    assert finding.what == "damaged manifest"

    manifest.write_text(text)
    Path("models/one.txt").write_text("by hand")
    dvc("commit", "--force", "--quiet")
    (finding,) = contradicted_manifests()
    assert finding.what == "outs of another run"
    assert finding.where == "models/one.txt"
    dvc("repro", "--force", "--quiet")
    assert list(contradicted_manifests()) == []
    assert json.loads(manifest.read_text())["files"]
