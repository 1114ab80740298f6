"""`make repro-check`: does this commit give the same bytes in two clones whose surroundings differ in all they can?

Two clones of HEAD run the whole pipeline, one after the other; what differs between them must not matter: the folder
(one with a space and a letter beyond ASCII), umask, locale, time zone, PYTHONHASHSEED, HOME, the folder of temporary
files, the terminal's width. Then every out and dvc.lock are compared byte by byte. The last line is MATCH, exit code 0,
or the first difference, exit code 1. Run as `python -m pipelines.repro_check --help` says.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import triplex.runs.telemetry  # noqa: F401  (for what runs below)
from pipelines import contents
from pipelines.clone import check_committed
from pipelines.rehash import LOCK_FILE, read_lock
from triplex.runs.errors import InputError, errors_in_words


@dataclass(frozen=True)
class Surroundings:
    """What one clone runs in."""

    folder: str
    umask: int
    env: Mapping[str, str]


SIDES = (
    Surroundings("plain", 0o022, {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0", "COLUMNS": "80"}),
    Surroundings(
        "wíth space", 0o077,
        {"LC_ALL": "C.UTF-8", "TZ": "XYZ-5:45", "PYTHONHASHSEED": "4242", "COLUMNS": "213"},
    ),
)  # fmt: skip


def run_side(source: Path, work: Path, side: Surroundings, preset: str) -> Path:
    """The clone of `source` under `work` in which the pipeline has run; InputError when it fails."""
    clone, home, temporary = (work / side.folder / name for name in ("triplex", "home", "tmp"))
    env = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "XDG_"))}
    env |= {**side.env, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(clone)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"

    def run(*command: str, cwd: Path = clone) -> None:
        code = subprocess.run(command, cwd=cwd, env=env, umask=side.umask).returncode
        if code:
            raise InputError(clone, f"`{' '.join(command)}` ended with exit code {code}", "its output above says why")

    for folder in (home, temporary):
        folder.mkdir(parents=True, mode=0o700)
    run("git", "clone", "--quiet", str(source), str(clone), cwd=work)
    (clone / LOCK_FILE).unlink(missing_ok=True)  # a committed one would restore nothing, but would be compared
    (clone / ".triplex").mkdir(mode=0o700)
    if preset:
        run(sys.executable, "-m", "pipelines", "preset", preset)
    run(sys.executable, "-m", "dvc", "repro")
    return clone


def first_difference(one: Path, other: Path) -> str | None:
    """The first file, in the order of dvc.lock's stages, that two finished clones do not share byte by byte; or None.

    dvc.lock itself comes last: where an out differs, the out says more.
    """
    for name in dict.fromkeys([*_files(one), *_files(other), str(LOCK_FILE)]):
        missing = [str(clone / name) for clone in (one, other) if not (clone / name).is_file()]
        if missing:
            return f"{name}: not in {missing[0]}"
        told = contents.first_difference(one / name, other / name)
        if told:
            return f"{name}: {told}"
    return None


def _files(clone: Path) -> Iterator[str]:
    for locked in read_lock(clone).values():
        for out in locked.outs:
            path = clone / out
            files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            yield from (file.relative_to(clone).as_posix() for file in files)


def check(source: Path, work: Path, preset: str) -> str | None:
    """Run both sides under `work`, an empty folder; the first difference, or None."""
    clones = []
    for side in SIDES:
        told = ", ".join(f"{name}={value}" for name, value in side.env.items())
        print(f"repro-check: {work / side.folder}: umask {side.umask:03o}, {told}", flush=True)
        clones.append(run_side(source, work, side, preset))
    return first_difference(*clones)


def main() -> int:
    """Exit code 0 when all bytes match, 1 when some differ, 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.repro_check", description=_purpose())
    parser.add_argument("--preset", default="tiny", help="of presets/ (tiny); '' takes params.yaml as it is")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder in which both clones stay")
    chosen = parser.parse_args()
    source = Path.cwd()
    with errors_in_words():
        check_committed(source)
        work = chosen.keep.resolve() if chosen.keep else Path(tempfile.mkdtemp(prefix="triplex-repro-"))
        difference = check(source, work, chosen.preset)
    if difference:
        print(f"repro-check: {difference}\nrepro-check: both clones stay in {work}")
        return 1
    print("repro-check: MATCH")
    if not chosen.keep:
        shutil.rmtree(work)
    return 0


def _purpose() -> str:
    assert __doc__ is not None
    return __doc__.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
