"""The site of docs/: built strictly, whole, and without a word to any other machine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(folder: Path, site: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r'<(?:script|img|iframe|source)[^>]*src="(?:https?:)?//|<link[^>]*href="(?:https?:)?//|@import')
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert not [page.name for page in pages if loaded.search(page.read_text())]
    assert not [
        page.name for page in site.rglob("*.css") if re.search(r"url\((?:https?:)?//|@import", page.read_text())
    ]


def test_a_link_to_a_function_leads_to_its_line(site: Path) -> None:
    target = re.search(
        r'href="(source/triplex/rl/advantages\.py\.html)#([\w-]+)"><code>gae<', (site / "ppo-and-grpo.html").read_text()
    )
    assert target
    line = re.search(rf'id="{target[2]}".*', (site / target[1]).read_text())
    assert line
    assert "gae" in line[0]


def test_formulas_are_mathml(site: Path) -> None:
    page = (site / "algorithms.html").read_text()
    assert page.count("<math") == page.count("</math>") >= 10
    assert "arithmatex" not in page


BROKEN = {  # links, and what is said of them
    "[x](no-such-page.md)": "no-such-page.md",
    "[x](index.md#no-such-place)": "no-such-place",
    "[x](../triplex/rl/no_such_file.py)": "no_such_file.py, which is not there",
    "[x](../triplex/rl/advantages.py#no_such_name)": "no_such_name of triplex/rl/advantages.py",
}


def test_each_broken_link_is_a_warning_and_ends_the_build(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for path in ROOT.iterdir():
        if path.name not in ("docs", "site"):
            (tmp_path / path.name).symlink_to(path)
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write("\n\n".join(["", *BROKEN, ""]))
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    warnings = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    assert all("no-such" in line or "no_such" in line for line in warnings), warnings  # of nothing else
    for said in BROKEN.values():
        assert any(said in line for line in warnings)
