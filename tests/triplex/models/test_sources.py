from pathlib import Path

import pytest

from triplex.models.sources import FolderConfig, HubConfig, model_folder
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree


def folder_at(path: Path) -> str:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return sha256_tree(path)


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"bad-45-{name}") for name in ("a b", "модель", "~/m", "x/../m")]
)
def test_folder_of_any_name_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    digest = folder_at(tmp_path / name.replace("~/", "").replace("x/../", ""))
    assert model_folder(FolderConfig(kind="folder", path=name, sha256=digest)).is_dir()


def test_folder_without_its_hash_is_refused_with_the_hash(tmp_path: Path) -> None:
    digest = folder_at(tmp_path / "m")
    with pytest.raises(InputError, match=f"no sha256 is given.*\n.*sha256: {digest}"):
        model_folder(FolderConfig(kind="folder", path=str(tmp_path / "m")))


def test_changed_folder_is_refused(tmp_path: Path) -> None:
    digest = folder_at(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{ }")
    with pytest.raises(InputError, match=f"SHA-256 is not {digest}"):
        model_folder(FolderConfig(kind="folder", path=str(tmp_path / "m"), sha256=digest))


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        model_folder(FolderConfig(kind="folder", path=str(tmp_path / "m"), sha256="0"))


@pytest.mark.parametrize("name", ["no such name", "a/b/c", "-"])
def test_hub_name_that_cannot_be_is_refused_without_network(name: str) -> None:
    with pytest.raises(InputError, match=r"not to be had from the hub .*\n.*check name, revision"):
        model_folder(HubConfig(kind="hub", name=name, revision="main"))
