import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipelines.doctor.packages import misfit, missing_extras, wrong_versions
from tests.pipelines.conftest import ROOT

PARAMS = "train: {backend: native}\n"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, name)
    Path("params.yaml").write_text(PARAMS)
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("")


def replace(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def test_this_environment_fits() -> None:
    assert [*wrong_versions(), *missing_extras()] == []


def test_another_version_than_the_pinned_one_is_named() -> None:
    here = version("typer")
    replace("constraints.txt", f"\ntyper=={here}\n", "\ntyper==0.1.2\n")
    (finding,) = wrong_versions()
    assert finding.where == f"typer {here}"
    assert "typer==0.1.2" in finding.meaning
    assert finding.remedy == "pip install --constraint constraints.txt typer"


def test_a_missing_dependency_is_named() -> None:
    replace("pyproject.toml", '"regex",', '"no-such-package-of-triplex",')
    (finding,) = wrong_versions()
    assert finding.what == "missing package"
    assert "no-such-package-of-triplex" in finding.where


def test_a_pin_for_another_system_does_not_count() -> None:
    with Path("constraints.txt").open("a") as file:
        file.write("regex==1.0 ; sys_platform == 'win32'\n")
    assert list(wrong_versions()) == []


def test_another_python_is_named() -> None:
    replace("pyproject.toml", 'requires-python = ">=3.11,<3.14"', 'requires-python = ">=3.99"')
    (finding,) = wrong_versions()
    assert finding.where == ".".join(map(str, sys.version_info[:3]))


def test_a_local_version_fits_its_public_one() -> None:
    assert misfit(Requirement(f"torch=={version('torch').partition('+')[0]}")) is None


def test_the_chosen_backend_needs_its_package() -> None:
    Path("params.yaml").write_text("train: {backend: unsloth}\n")
    (finding,) = missing_extras()
    assert finding.where == "params.yaml: train.backend = unsloth"
    assert finding.remedy == "pip install --constraint constraints.txt unsloth"


def test_a_remote_needs_dvc_s_package_for_it() -> None:
    Path(".dvc/config").write_text("['remote \"there\"']\n    url = gs://bucket/path\n")
    (finding,) = missing_extras()
    assert finding.where == "DVC remote there: gs://bucket/path"
    assert finding.meaning == "dvc-gs is not installed"
