"""The version stands in three files, and is one."""

import tomllib
from pathlib import Path

from triplex.runs.params import load_yaml

ROOT = Path(__file__).parents[2]


def test_the_changelog_and_the_citation_have_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest == f"## {version}"
    assert str(load_yaml(ROOT / "CITATION.cff")["version"]) == version
