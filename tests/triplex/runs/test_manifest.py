"""Manifests of a small pipeline of two stages: what they hold, and that nothing else is taken as an input."""

import hashlib
import json
from pathlib import Path

import pytest

from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree
from triplex.runs.manifest import check_inputs, declarations, environment, read_manifest, write_manifest

DVC_YAML = """\
stages:
  fetch:
    cmd: curl
    outs: [raw.txt]
  base:
    cmd: python base.py
    deps: [base.py, raw.txt]
    outs: [models/base, reports/manifests/base.json]
  train:
    matrix: {algorithm: '${algorithms}'}
    cmd: python train.py ${item.algorithm}
    deps: [train.py, models/base, 'models/${algorithms[1]}.txt']
    outs: ['models/${item.algorithm}', 'reports/manifests/train-${item.algorithm}.json']
    metrics: ['reports/${item.algorithm}.tsv': {cache: false}]
"""
DEPS = ["raw.txt", "base.py", "models/base"]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stage base has finished."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(DVC_YAML)
    Path("params.yaml").write_text("algorithms: [ppo, grpo]\n")
    Path("raw.txt").write_bytes(b"raw")
    Path("base.py").write_bytes(b"print()")
    Path("models/base/tokenizer").mkdir(parents=True)
    Path("models/base/weights").write_bytes(b"\x00\x01\x02")
    Path("models/base/tokenizer/vocab.txt").write_bytes(b"a b")
    identity = {"stage": "base", "params": {"seed": 7}, "inputs": {"base.py": sha256(b"print()")}}
    write_manifest(identity, ["models/base", "reports/manifests/base.json"])
    return tmp_path


def flip(path: str, place: int = 0, bit: int = 0) -> None:
    content = bytearray(Path(path).read_bytes())
    content[place] ^= 1 << bit
    Path(path).write_bytes(content)


def test_it_holds_every_file_with_its_hash_and_size() -> None:
    manifest = json.loads(Path("reports/manifests/base.json").read_text())
    assert manifest["stage"] == "base"
    assert manifest["params"] == {"seed": 7}
    assert manifest["inputs"] == {"base.py": sha256(b"print()")}
    assert manifest["files"] == {
        "models/base/tokenizer/vocab.txt": {"sha256": sha256(b"a b"), "size": 3},
        "models/base/weights": {"sha256": sha256(b"\x00\x01\x02"), "size": 3},
    }
    assert manifest["outputs"] == {"models/base": sha256_tree("models/base")}
    assert {"python", "machine", "processor", "packages"} <= manifest["environment"].keys()
    assert manifest["environment"] == environment()


def test_the_hash_of_a_dep_is_that_of_its_tree() -> None:
    assert check_inputs(DEPS) == {dep: sha256_tree(dep) for dep in DEPS}


def test_a_part_of_an_out_is_held_to_its_manifest() -> None:
    assert check_inputs(["models/base/tokenizer"]) == {"models/base/tokenizer": sha256_tree("models/base/tokenizer")}
    flip("models/base/weights")  # no input here
    check_inputs(["models/base/tokenizer/vocab.txt"])
    with pytest.raises(InputError, match="weights"):
        check_inputs(["models/base"])


@pytest.mark.parametrize("place", range(3))
def test_a_flipped_bit_is_told_with_both_hashes_and_the_remedy(place: int) -> None:
    written = Path("models/base/weights").read_bytes()
    flip("models/base/weights", place, bit=place)
    with pytest.raises(InputError) as caught:
        check_inputs(DEPS)
    assert caught.value.where == "models/base/weights"
    assert sha256(written) in str(caught.value)
    assert sha256(Path("models/base/weights").read_bytes()) in str(caught.value)
    assert "dvc repro --force --single-item base" in caught.value.remedy
    assert "pipelines doctor" in caught.value.remedy


def test_a_missing_file_and_one_too_many_are_told() -> None:
    Path("models/base/extra").touch()
    with pytest.raises(InputError, match=r"models/base/extra: not a file that the stage base wrote"):
        check_inputs(DEPS)
    Path("models/base/extra").unlink()
    Path("models/base/weights").unlink()
    with pytest.raises(InputError, match=r"models/base/weights: missing, though the stage base wrote it"):
        check_inputs(DEPS)


def test_without_its_manifest_an_out_is_not_finished() -> None:
    Path("reports/manifests/base.json").unlink()
    with pytest.raises(InputError, match=r"reports/manifests/base.json: missing: the stage base has not finished"):
        check_inputs(DEPS)


def test_a_missing_dep_is_told() -> None:
    with pytest.raises(InputError, match=r"models/ppo: missing\n.*dvc repro"):
        check_inputs([*DEPS, "models/ppo"])


def test_no_bit_of_a_manifest_flips_unseen() -> None:
    path = Path("reports/manifests/base.json")
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        flip(str(path), place, place % 8)
        with pytest.raises(InputError, match="damaged"):
            check_inputs(["reports/manifests/base.json"])
        path.write_bytes(whole)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            read_manifest("base")
    path.write_bytes(whole)
    assert check_inputs(["reports/manifests/base.json"]) == {"reports/manifests/base.json": sha256(whole)}


def test_a_stage_without_a_manifest_is_not_looked_at() -> None:
    flip("raw.txt")
    assert check_inputs(["raw.txt"]) == {"raw.txt": sha256(Path("raw.txt").read_bytes())}


def test_a_matrix_is_one_stage_an_item() -> None:
    found = declarations()
    assert list(found) == ["fetch", "base", "train@ppo", "train@grpo"]
    assert found["train@ppo"] == {
        "deps": ["train.py", "models/base", "models/grpo.txt"],
        "outs": ["models/ppo", "reports/manifests/train-ppo.json", "reports/ppo.tsv"],
    }
