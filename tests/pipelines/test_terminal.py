"""What commands show on a terminal of 80 columns: whole keys, no line too long, a browser that is asked for."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.__main__ import app
from tests.pipelines.conftest import environment
from tests.project import ROOT

PAGE = "reports/index.html"


def on_a_terminal(folder: Path, *arguments: str, **env: str) -> tuple[int, str]:
    """Exit code and output of `python -m pipelines ARGUMENTS` on a terminal, as it came."""
    here, there = pty.openpty()
    kept = {name: value for name, value in environment().items() if name not in ("DISPLAY", "BROWSER", "NO_COLOR")}
    command = [sys.executable, "-m", "pipelines", *arguments]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=kept | {"COLUMNS": "80", "TERM": "xterm"} | env,
        stdin=there,
        stdout=there,
        stderr=there,
    )
    os.close(there)
    shown = b""
    while True:
        try:
            shown += os.read(here, 4096)
        except OSError:  # EIO: its last holder has closed the other end
            break
    os.close(here)
    return process.wait(), shown.decode()


@pytest.fixture
def reported(tmp_path: Path) -> str:
    """The address of a report below `tmp_path`."""
    (tmp_path / PAGE).parent.mkdir()
    (tmp_path / PAGE).write_text("<p>x")
    return (tmp_path / PAGE).as_uri()


def test_the_browser_gets_the_address_of_the_report(tmp_path: Path, reported: str) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/asked\n')
    browser.chmod(0o755)
    assert on_a_terminal(tmp_path, "report", BROWSER=str(browser)) == (0, f"{reported}\r\n")
    assert (tmp_path / "asked").read_text() == f"{reported}\n"


@pytest.mark.parametrize("env", [{}, {"BROWSER": "/bin/false"}])
def test_where_no_browser_takes_it_the_address_is_told(tmp_path: Path, reported: str, env: dict[str, str]) -> None:
    code, shown = on_a_terminal(tmp_path, "report", **env)
    assert code == 0
    assert shown.startswith(f"{reported}\r\n")
    assert "no browser took it: copy the address" in shown


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_a_table_fits_with_its_keys_whole_and_its_colours_as_asked(toy: Path, env: dict[str, str]) -> None:
    code, shown = on_a_terminal(toy, "status", **env)
    assert code == 0
    assert ("\x1b[33m" in shown) == (not env)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert max(map(len, plain)) <= 80
    assert [line.split()[0] for line in plain[1:]] == [
        "prepare", "base", "sft", "baseline", "reward", "train@ppo", "train@grpo", "evaluate", "plot",
    ]  # fmt: skip


def test_the_difference_of_a_preset_has_whole_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("params.yaml", "params.schema.json", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["preset", "story"], env={"COLUMNS": "80"}).stdout.splitlines()
    assert max(map(len, shown)) <= 80
    assert any(line.split()[0] == "reward.sentiment.model.optim.learning_rate" for line in shown)
