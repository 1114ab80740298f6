"""The commands and programs of the guides, run as a reader would: page after page, in a clone that has run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.project import ROOT, copy_of_the_run

#: in the order in which they are run
PAGES = (
    "first-run",
    "publishing",
    "experiments",
    "perplexity-rewards",
    "ppo-and-grpo",
    "reading-kl",
    "data",
    "adapters",
    "bring-your-own",
    "troubleshooting",
)
RUNNABLE = ("sh", "bash", "python")


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, title, text) of each fenced block of a page of docs/."""
    tokens = MarkdownIt().parse((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    fences = [token for token in tokens if token.type == "fence"]
    titles = [re.search(r'title="(.*)"', token.info) for token in fences]
    return [
        (token.info.split()[0], title[1] if title else "", token.content)
        for token, title in zip(fences, titles, strict=True)
    ]


def run(folder: Path, *command: str) -> None:
    """A command in the clone, as with its environment on the path; it must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(folder), "COLUMNS": "120"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def project(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the models that the pages after the first one use: `dvc repro` finds there what it would make."""
    return copy_of_the_run(finished_project, tmp_path_factory.mktemp("guides") / "triplex")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(project: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    """Commands one after the other; the programs of a page are parts of one, which is run here."""
    found = [(language, text) for language, title, text in blocks(page) if language in RUNNABLE and not title]
    assert found
    for language, text in found:
        if language in ("sh", "bash"):
            run(project, "bash", "-euo", "pipefail", "-c", text)
    if program := "\n".join(text for language, text in found if language == "python"):
        monkeypatch.chdir(project)
        exec(compile(program, f"{page}.md", "exec"), {"__name__": "__main__"})  # noqa: S102


def test_what_is_not_run_says_why() -> None:
    """Every block of these pages that could run is run, or has a title that says why not; there are few of those."""
    titles = [(page, title) for page in PAGES for language, title, _ in blocks(page) if language in RUNNABLE and title]
    assert all(title.endswith("not run by the tests") for _, title in titles)
    assert len(titles) == 13, titles
