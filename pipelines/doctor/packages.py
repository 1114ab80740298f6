"""Installed packages against what pyproject.toml, constraints.txt and params.yaml ask for."""

import os
import platform
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipelines.doctor.finding import Finding
from pipelines.doctor.remote import remotes
from triplex.runs.params import PARAMS_FILE, load_yaml

PROJECT, CONSTRAINTS = Path("pyproject.toml"), Path("constraints.txt")
#: extras of pyproject.toml by the value of train.backend in params.yaml
_BACKENDS = {"unsloth": "unsloth"}
_WRITERS = {"TRIPLEX_TENSORBOARD": "tensorboard", "TRIPLEX_TRACKIO": "trackio"}
#: by the scheme of a remote's URL, DVC's package for it
_REMOTES = {
    "s3": "dvc-s3", "gs": "dvc-gs", "azure": "dvc-azure", "ssh": "dvc-ssh", "gdrive": "dvc-gdrive", "oss": "dvc-oss",
    "webdav": "dvc-webdav", "webdavs": "dvc-webdav", "hdfs": "dvc-hdfs",
}  # fmt: skip


def wrong_versions() -> Iterator[Finding]:
    """A Python, a dependency or any other installed package in a version that the project is not pinned to."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    if platform.python_version() not in SpecifierSet(project["requires-python"]):
        yield Finding(
            "wrong Python", platform.python_version(), f"the project asks for {project['requires-python']}",
            "make a new .venv with such a Python",
        )  # fmt: skip
    for requirement in map(Requirement, project["dependencies"]):
        if (wrong := misfit(requirement)) is not None:
            yield _finding(requirement, wrong, PROJECT)
    for requirement in constraints():
        if (wrong := misfit(requirement)) not in (None, "missing"):
            yield _finding(requirement, str(wrong), CONSTRAINTS)


def missing_extras() -> Iterator[Finding]:
    """Packages that only some settings need: the backend of params.yaml, the remotes of DVC, TensorBoard, Trackio."""
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    chosen = {}
    backend = load_yaml(PARAMS_FILE).get("train", {}).get("backend")
    if backend in _BACKENDS:
        chosen[f"{PARAMS_FILE}: train.backend = {backend}"] = extras[_BACKENDS[backend]]
    for variable, extra in _WRITERS.items():
        if variable in os.environ:
            chosen[variable] = extras[extra]
    for name, url in remotes().items():
        if (scheme := url.partition("://")[0]) in _REMOTES:
            chosen[f"DVC remote {name}: {url}"] = [_REMOTES[scheme]]
    for where, requirements in chosen.items():
        for requirement in map(Requirement, requirements):
            if misfit(requirement) == "missing":
                yield Finding(
                    "missing package", where, f"{requirement.name} is not installed", _install(requirement.name)
                )


def constraints() -> list[Requirement]:
    """The pins of constraints.txt that hold on this machine."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]


def misfit(requirement: Requirement) -> str | None:
    """`missing`, the installed version where it is not one that is asked for, None where all is well."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return "missing"
    return None if requirement.specifier.contains(installed, prereleases=True) else installed


def _finding(requirement: Requirement, installed: str, source: Path) -> Finding:
    return Finding(
        "missing package" if installed == "missing" else "wrong version", f"{requirement.name} {installed}",
        f"{source} says {requirement}: results may differ, or fail", _install(requirement.name),
    )  # fmt: skip


def _install(name: str) -> str:
    return f"pip install --constraint {CONSTRAINTS} {name}"
