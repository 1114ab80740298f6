"""What stops a model from being published, and whose licence it has; a whole run is published in test_pipeline.py."""

import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pipelines.clone import check_committed
from pipelines.origin import Origin, license_of
from pipelines.publish import check_target, check_trained
from pipelines.rehash import LOCK_FILE
from tests.pipelines.conftest import ROOT
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml

PARAMS = load_yaml(ROOT / "params.yaml")
MODEL = Path("models/ppo")
HUB_MODEL = {"kind": "hub", "name": "acme/base", "revision": "abc"}
FILES = {"kind": "files", "files": [{"path": "my/reviews.csv"}], "licence": "CC BY 4.0"}


def origin(source: Any = None, base: Any = None, sentiment: Any = None) -> Origin:
    """A run as params.yaml has it, but for what is given."""
    params = deepcopy({name: PARAMS[name] for name in Origin.model_fields})
    for section, key, value in (
        (params["data"], "source", source),
        (params["base"], "model", base),
        (params["reward"]["sentiment"], "model", sentiment),
    ):
        section[key] = value or section[key]
    return Origin.model_validate(params)


def test_what_triplex_made_alone_has_its_licence() -> None:
    assert list(origin().others()) == []
    assert license_of(MODEL, origin(), None) == "apache-2.0"
    assert license_of(MODEL, origin(), "cc0-1.0") == "cc0-1.0"
    assert origin().on_the_hub() == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"source": FILES}, r"others made the data `my/reviews.csv` \(CC BY 4.0\)"),
        ({"source": {"kind": "hub", "name": "acme/rows", "split": "train"}}, "the data `acme/rows`"),
        ({"base": HUB_MODEL}, "the base model `acme/base` of the Hugging Face hub, revision `abc`"),
        ({"base": {"kind": "folder", "path": "../x", "sha256": "f00"}}, "the base model the folder `../x`"),
        ({"sentiment": HUB_MODEL}, "the sentiment model `acme/base`"),
    ],
)
def test_what_others_made_needs_a_licence_that_is_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        license_of(MODEL, origin(**given), None)
    assert "--license ID" in caught.value.remedy
    assert license_of(MODEL, origin(**given), "mit") == "mit"


def test_the_hub_links_what_is_there(tmp_path: Path) -> None:
    assert origin(base=HUB_MODEL).on_the_hub() == {"base_model": "acme/base"}
    rows = {"kind": "hub", "name": "acme/rows", "split": "train"}
    assert origin(rows).on_the_hub() == {"datasets": ["acme/rows"]}
    assert origin(rows | {"name": str(tmp_path)}).on_the_hub() == {}


def test_a_target_that_will_not_do_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    check_target(str(tmp_path / "new"), dry_run=False)
    check_target("hub:acme/kind", dry_run=True)
    with pytest.raises(InputError, match="is there already"):
        check_target(str(tmp_path), dry_run=False)
    with pytest.raises(InputError, match="nobody is logged in") as caught:
        check_target("hub:acme/kind", dry_run=False)
    assert "hf auth login" in caught.value.remedy
    with pytest.raises(InputError, match="alphanumeric"):
        check_target("hub:acme kind", dry_run=True)


def test_a_folder_that_no_stage_wrote_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("models/ppo", "models/reward/classifier", "models/mine"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
    outs = ["models/ppo", "models/reward"]
    check_trained(Path("models/reward/classifier"), outs)
    with pytest.raises(InputError, match="did you mean 'models/ppo'"):
        check_trained(Path("models/pop"), outs)
    with pytest.raises(InputError, match="no model that a stage of this run wrote"):
        check_trained(Path("models/mine"), outs)


def test_what_stages_read_has_to_be_committed_and_nothing_else(tmp_path: Path) -> None:
    def shell(command: str) -> None:
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)

    dvc_yaml = "stages: {sft: {cmd: x, deps: [plugins, step.py]}}"
    write({"dvc.yaml": dvc_yaml, "params.yaml": "seed: 7", "step.py": "", "README.md": ""})
    shell("git init -q && git config user.name t && git config user.email t@localhost")
    shell("git add . && git commit -qm all")
    write({"README.md": "changed", "notes.txt": "unknown to git"})
    check_committed(tmp_path, LOCK_FILE)
    write({"params.yaml": "seed: 8", "dvc.lock": "stages: {}", "plugins/my own.py": ""})
    with pytest.raises(InputError, match=r"last commit: params.yaml, dvc.lock, plugins/my own.py\n") as caught:
        check_committed(tmp_path, LOCK_FILE)
    shell(f"{caught.value.remedy.split('`')[1]} -m more")
    check_committed(tmp_path, LOCK_FILE)
