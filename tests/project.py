"""The project as a clone has it, with the tiny preset, and its command lines run there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def copy_of_the_project(folder: Path) -> Path:
    """What git would put into a clone, with the tiny preset as its parameters, committed."""
    names = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, names.stdout.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copy(ROOT / "presets/tiny.yaml", folder / "params.yaml")
    commands = (
        "git init -q",
        "git config user.name t",  # which DVC's experiments ask for
        "git config user.email t@localhost",
        "git add .",
        "git -c commit.gpgsign=false commit -qm tiny",
    )
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True)
    return folder


def copy_of_the_run(finished: Path, folder: Path) -> Path:
    """A finished clone, to write in; DVC's databases of what it has seen come and go, and stay behind."""
    return Path(shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(".triplex"), symlinks=True))


def run(folder: Path, *command: str) -> str:
    """Output of `python -m command` in the copy, which must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
