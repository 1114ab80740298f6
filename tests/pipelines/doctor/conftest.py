"""A small DVC repository of two stages that have run, and hands that damage it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from tests.pipelines.conftest import environment, make_repository

DVC_YAML = """\
stages:
  one:
    cmd: python step.py models/one
    deps: [step.py]
    params: [seed]
    outs: [models/one]
  two:
    cmd: python step.py models/two.txt
    deps: [step.py, models/one]
    outs: [models/two.txt]
"""
#: writes three files or one, from params.yaml and models/one/0.txt
STEP = """\
import sys
from pathlib import Path

out = Path(sys.argv[1])
out.parent.mkdir(exist_ok=True)
if out.suffix:
    out.write_text("two " + Path("models/one/0.txt").read_text())
else:
    out.mkdir()
    for number in range(3):
        (out / f"{number}.txt").write_text(f"{number} {Path('params.yaml').read_text()}" * 50)
"""


def dvc(*arguments: str) -> str:
    """What a command of DVC prints in the current folder; it must succeed."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def changed() -> dict[str, Any]:
    """What `dvc status` tells, in this process: quicker by a start of Python."""
    return dict(Repo(".").status())


def repro() -> None:
    """What `dvc repro` does, in this process."""
    Repo(".").reproduce()


def git(*arguments: str) -> str:
    """What a command of git prints in the current folder; it must succeed."""
    command = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.org", *arguments]
    return subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout


def rot(path: Path, byte: int = 5) -> None:
    """Flip one bit as a failing disk does: neither mode nor times tell."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def contents(folder: str) -> dict[str, bytes]:
    """The bytes of every file below a folder that stages have written there."""
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != ".gitignore")
    return {str(path): path.read_bytes() for path in files}


def stored(md5: str) -> Path:
    """Where DVC's cache has an object."""
    return Path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}")


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    make_repository(folder, {"params.yaml": "seed: 1\n", "dvc.yaml": DVC_YAML, "step.py": STEP})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        Path(".triplex").mkdir(mode=0o700)
        dvc("config", "core.site_cache_dir", ".triplex/dvc")
        git("commit", "--quiet", "--all", "--message", "site cache")
        repro()
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is the repository after `dvc repro`, its dvc.lock not committed."""
    folder = Path(shutil.copytree(finished_once, tmp_path / "project", symlinks=True))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return folder
