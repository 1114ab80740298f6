"""What is told of params.yaml before any stage starts."""

import shlex
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipelines.check import check_params
from stages.train import main as train
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree
from triplex.runs.params import load_yaml

ROOT = Path(__file__).parents[2]
ROWS = b"body,liked\none text,1\n"


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def changed(folder: Path, **values: Any) -> Path:
    """The tiny preset with other values by dotted key, `__` for the dot."""
    document = load_yaml(ROOT / "presets" / "tiny.yaml")
    for key, value in values.items():
        *parents, leaf = key.split("__")
        node = document
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    file = folder / "params.yaml"
    YAML().dump(document, file)
    return file


def test_sound_parameters_pass_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_params(changed(tmp_path))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"train__batch_size": 18}, "train.batch_size = 18: not a multiple of group_size = 4",
                     id="bad-40-groups"),
        pytest.param({"ppo__num_minibatches": 3}, "train.batch_size = 16: not a multiple of num_minibatches = 3",
                     id="bad-40-minibatches"),
        *(
            pytest.param({key.replace(".", "__"): 129}, f"{key} = 129 is above base.model.max_positions = 128",
                         id=f"bad-23-{key}")
            for key in ("base.block_size", "sft.block_size", "reward.preference.model.max_tokens",
                        "reward.calibration.max_new_tokens", "train.max_new_tokens", "evaluate.max_new_tokens")
        ),
    ],
)  # fmt: skip
def test_sizes_that_cannot_fit_are_told_before_the_first_stage(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(InputError) as raised:
        check_params(changed(tmp_path, **values))
    assert said in str(raised.value)
    assert raised.value.remedy


@pytest.mark.parametrize("backend", ["unsloth"])
def test_bad_42_four_bits_on_a_cpu_are_refused_before_any_download(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("triplex.models.sources.snapshot_download", lambda *_, **__: pytest.fail("downloaded"))
    model = {"kind": "hub", "name": "org/model", "revision": "0" * 40}
    with pytest.raises(InputError, match=r"train.backend = unsloth: there is no CUDA GPU"):
        check_params(changed(tmp_path, base__model=model, train__backend=backend))


@pytest.mark.parametrize("key", ["base__model", "reward__sentiment__model", "reward__preference__model"])
def test_bad_48_a_model_folder_that_is_missing_or_another_is_told_before_the_first_stage(
    tmp_path: Path, key: str
) -> None:
    folder = tmp_path / "model"
    with pytest.raises(InputError, match=r"model: no such model folder"):
        check_params(changed(tmp_path, **{key: {"kind": "folder", "path": str(folder)}}))
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"no sha256 is given(.|\n)*accept it in params.yaml: sha256: [0-9a-f]{64}"):
        check_params(changed(tmp_path, **{key: {"kind": "folder", "path": str(folder)}}))
    entry = {"kind": "folder", "path": str(folder), "sha256": sha256_tree(folder)}
    check_params(changed(tmp_path, **{key: entry}))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        pytest.param({"path": "row.csv"}, r"row.csv: no such file(.|\n)*did you mean 'rows.csv'", id="bad-28"),
        pytest.param({}, r"rows.csv: no sha256 is given(.|\n)*params.yaml: sha256: [0-9a-f]{64}", id="bad-32"),
        pytest.param({"sha256": sha256(ROWS).hexdigest()}, r"rows.csv row 1: no column 'text'", id="bad-09"),
    ],
)
@pytest.mark.parametrize("key", ["source", "preferences"])
def test_a_data_file_that_cannot_be_read_is_told_before_the_first_stage(
    tmp_path: Path, key: str, entry: dict[str, str], said: str
) -> None:
    (tmp_path / "rows.csv").write_bytes(ROWS)
    entry = {"path": "rows.csv"} | entry
    files = {"files": [entry | {"path": str(tmp_path / entry["path"])}]}
    value = {"kind": "files"} | files if key == "source" else files
    with pytest.raises(InputError, match=said):
        check_params(changed(tmp_path, **{f"data__{key}": value}))


def test_bad_47_more_threads_than_cpus_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    file = changed(tmp_path, compute__threads=4)
    check_params(file)
    assert capsys.readouterr().err == "warning: compute.threads = 4, on 2 CPUs: the same bytes, slower\n"


HOSTILE = ["ppo; touch pwned", "$(rm -rf x)", "ppo\ntouch pwned", "ppo' ; touch pwned '", "`id`", "ppo && id"]


@pytest.mark.parametrize("name", [pytest.param(name, id=f"bad-46-{i}") for i, name in enumerate(HOSTILE)])
def test_a_value_in_a_command_is_no_command(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything starts; to a bare `dvc repro`, which does not ask, it is one quoted argument."""
    with pytest.raises(InputError, match=r"algorithms.0 = .*: Input should be 'ppo', 'grpo'"):
        check_params(changed(tmp_path, algorithms=[name, "grpo"]))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    stages = Repo.init(no_scm=True).index.stages
    commands = [shlex.split(stage.cmd, comments=False) for stage in stages if "train" in stage.name]
    assert ["python", "-m", "stages.train", "--algorithm", name] in commands
    with pytest.raises(SystemExit, match="2"):
        train(name)
    assert not (tmp_path / "pwned").exists()
