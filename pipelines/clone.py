"""A fresh clone of a run, in which its stages are executed again with nothing to restore them from."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from pipelines.rehash import Locked, read_lock
from triplex.runs.digests import DIGESTS, LIVE, read_rows
from triplex.runs.errors import InputError
from triplex.runs.manifest import DVC_FILE, declarations, manifest_path
from triplex.runs.params import PARAMS_FILE
from triplex.runs.processes import end_all, living

OUTPUT = "output.txt"
_LOOK_SECONDS = 0.05


@contextmanager
def run_folder(run: str, only: Path | None = None) -> Iterator[Path]:
    """The folder of a run, given as a folder or as a git revision of this one.

    Of a revision it is a temporary clone, and what its dvc.lock names (below `only`, where that is given) comes out
    of DVC's cache. InputError for what is neither, and for outs that the cache has not.
    """
    if Path(run).is_dir():
        yield Path(run)
        return
    if git(Path.cwd(), "rev-parse", "--verify", "--quiet", "--end-of-options", f"{run}^{{commit}}") is None:
        raise InputError("RUN", f"{run!r} is neither a folder nor a git revision", "`git log` lists revisions")
    with fresh_clone(Path.cwd(), run) as clone:
        outs = [out for locked in read_lock(clone).values() for out in locked.outs]
        wanted = [out for out in outs if only is None or only in Path(out).parents]
        _check_out(clone, wanted, Path.cwd(), run)
        yield clone


@contextmanager
def fresh_clone(root: Path, revision: str = "HEAD") -> Iterator[Path]:
    """A temporary clone of the repository at `root`, with files from git alone; InputError where that is none."""
    with TemporaryDirectory(prefix="triplex-") as folder:
        clone = Path(folder) / "clone"
        commit = git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        if commit is None:
            raise InputError(root, f"no git repository with a commit {revision}", "clone it with git")
        for command in (["clone", "--quiet", "--no-checkout", str(root.absolute()), str(clone)],
                        ["-C", str(clone), "checkout", "--quiet", "--detach", commit]):  # fmt: skip
            subprocess.run(["git", *command], check=True)
        yield clone


def check_committed(root: Path, *more: Path) -> None:
    """InputError unless all that the stages of `root` read, and `more`, is as in its last commit.

    Other files may differ from it, or be unknown to git.
    """
    read = {dep for declared in declarations(root / DVC_FILE).values() for dep in declared["deps"]}
    paths = sorted(read | {str(path) for path in (DVC_FILE, PARAMS_FILE, *more)})
    asked = ["status", "--porcelain", "-z", "--no-renames", "--untracked-files=all"]
    status = git(root, "--literal-pathspecs", *asked, "--", *paths)
    if status is None:
        raise InputError(root, "no git repository", "clone it with git")
    if changed := [entry[3:] for entry in status.split("\0") if entry]:
        what = f"differs from its last commit: {', '.join(changed)}"
        raise InputError(root, what, f"`git add {shlex.join(changed)} && git commit`: only what is committed counts")


def give_inputs(root: Path, clone: Path, name: str, lock: dict[str, Locked]) -> None:
    """Copy what stage `name` reads of other stages, and their manifests, from `root` into the clone."""
    producers = {out: stage for stage, locked in lock.items() for out in locked.outs}
    for dep in lock[name].deps:
        around = next((str(p) for p in (Path(dep), *Path(dep).parents) if str(p) in producers), None)
        if around is not None:
            _copy(root, clone, Path(dep))
            if (root / manifest_path(producers[around])).is_file():
                _copy(root, clone, manifest_path(producers[around]))


def execute(clone: Path, name: str, locked: Locked) -> float:
    """Run a stage's command in the clone; returns the seconds. InputError when it fails."""
    started = time.monotonic()
    for out in locked.outs:
        _remove(clone / out)
    with _running(clone, locked.cmd) as process:
        _wait(clone, process, name)
    return time.monotonic() - started


def first_rows(clone: Path, name: str, locked: Locked, num_steps: int) -> list[dict[str, Any]]:
    """The digests of the first `num_steps` steps of a training stage, which is then killed: it writes no outs.

    The stage itself knows nothing of this, so its schedule is that of the whole run.
    """
    with _running(clone, locked.cmd) as process:
        while process.poll() is None:
            rows = [row for path in _live(clone, name) for row in read_rows(path)]
            if len(rows) >= num_steps:
                return rows[:num_steps]
            time.sleep(_LOOK_SECONDS)
        _wait(clone, process, name)
    return read_rows(clone / DIGESTS / f"{name.replace('@', '-')}.jsonl")[:num_steps]


@contextmanager
def _running(clone: Path, cmd: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The command in the clone's own code, its output in a file beside it; afterwards none of its processes is left."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    modules = os.pathsep.join(filter(None, (str(clone), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PATH": path, "PYTHONPATH": modules, "PYTHONDONTWRITEBYTECODE": "1"}
    with (clone.parent / OUTPUT).open("wb") as output:
        process = subprocess.Popen(["sh", "-c", cmd], cwd=clone, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            top = [psutil.Process(process.pid)] if process.poll() is None else []
            started = [*top, *(child for one in top for child in one.children(recursive=True))]
            end_all(lambda: living(started), grace_seconds=0.0)
            process.wait()


def _wait(clone: Path, process: "subprocess.Popen[bytes]", name: str) -> None:
    if process.wait():
        tail = "\n  ".join((clone.parent / OUTPUT).read_text(errors="replace").strip().splitlines()[-5:])
        raise InputError(f"stage {name}", f"ended with exit code {process.returncode} in the clone\n  {tail}")


def _live(clone: Path, name: str) -> list[Path]:
    """The digests that a stage is writing, those of its first training first."""
    found = (clone / ".triplex/state").glob(f"{name.replace('@', '-')}-*/**/{LIVE}")
    return sorted(found, key=lambda path: len(path.parts))


def _copy(root: Path, clone: Path, path: Path) -> None:
    _remove(clone / path)
    (clone / path).parent.mkdir(parents=True, exist_ok=True)
    if (root / path).is_dir():
        shutil.copytree(root / path, clone / path)
    else:
        shutil.copyfile(root / path, clone / path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check_out(clone: Path, outs: list[str], root: Path, run: str) -> None:
    """Put these outs from the DVC cache of `root` into the clone."""
    cache = _dvc(root, run, "cache", "dir").strip()
    _dvc(clone, run, "cache", "dir", "--local", cache)
    _dvc(clone, run, "checkout", "--quiet", *outs)


def _dvc(folder: Path, run: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        what = f"`dvc {' '.join(arguments[:2])}` failed\n  {done.stderr.strip()}"
        raise InputError(run, what, "`dvc fetch --all-commits` gets what the cache lacks from the remote")
    return done.stdout


def git(root: Path, *arguments: str) -> str | None:
    """What git prints, None where it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
