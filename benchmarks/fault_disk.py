"""A disk that fills up while a stage runs: does it end in words, and go on exactly when there is room again?

    python -m benchmarks.fault_disk
    python -m benchmarks.fault_disk --stages sft train@ppo --reference FOLDER

Runs as root, on Linux: each run has the project on a tmpfs of its own. FOLDER is a copy of the project in which the
tiny preset has run; without it one is made. A stage's bytes are the most that it has on the disk at any time beyond
what was there. It runs with room for 25, 50, 75 and 95 % of them, then again with room for all. Prints Markdown.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.fault_kills import compare, make_reference, remove
from triplex.runs.checkpoint import newest, what_is_wrong
from triplex.runs.errors import Exit
from triplex.runs.manifest import declarations

STAGES = ("base", "sft", "reward", "train@ppo", "train@grpo")
SHARES = (25, 50, 75, 95)
MEGABYTE = 2**20
ROOMY = 1024 * MEGABYTE
MESSAGE = re.compile(r"error: \S+: no space left on the disk: .+ needed, .+ MB free")


class Row(NamedTuple):
    """What came of one stage on one disk."""

    stage: str
    share: int  # per cent of the stage's bytes that there was room for
    kilobytes: int  # that room
    exit_code: int
    seconds: float  # from the fullest moment to the end
    in_words: bool  # path, need and free space, and no traceback
    checkpoints: int  # that were left, all of which verify
    exit_code_with_room: int
    differing_bytes: int  # of the outs, when it has run again with room


class Ended(NamedTuple):
    """A run that has ended."""

    exit_code: int
    output: str
    most_bytes: int  # on the disk at any time
    seconds_since_most: float


def measure(stages: Sequence[str] = STAGES, reference: Path | None = None) -> list[Row]:
    """One row a stage and share."""
    with tempfile.TemporaryDirectory(prefix="triplex-disk-") as scratch:
        made = reference or make_reference(Path(scratch) / "reference")
        found = []
        for stage in stages:
            with disk_with_project(Path(scratch), made, stage) as folder:
                at_first = used(folder)
                ended = run(folder, stage)
                assert ended.exit_code == 0, ended.output
                outs = Path(scratch) / stage
                for out in declarations(folder / "dvc.yaml")[stage]["outs"]:
                    (outs / out).parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(folder / out, outs / out)
            for share in SHARES:
                with disk_with_project(Path(scratch), made, stage) as folder:
                    room = (ended.most_bytes - at_first) * share // 100
                    found.append(fill(folder, outs, stage, share, used(folder), room))
                    print(found[-1], file=sys.stderr, flush=True)
    return found


def fill(folder: Path, undisturbed: Path, stage: str, share: int, at_first: int, room: int) -> Row:
    """The stage on a disk that is too small, and again on one that is not."""
    resize(folder, at_first + room)
    full = run(folder, stage)
    states = list((folder / ".triplex/state").glob("*"))
    kept = [path for state in states for path in state.rglob("step-*") if path.is_dir()]
    assert all(what_is_wrong(path) is None for path in kept)
    assert bool(kept) == any(newest(path.parent) for path in kept)
    resize(folder, ROOMY)
    again = run(folder, stage)
    outs = declarations(folder / "dvc.yaml")[stage]["outs"]
    return Row(
        stage, share, room // 1000, full.exit_code, full.seconds_since_most,
        MESSAGE.search(full.output) is not None and "Traceback" not in full.output, len(kept), again.exit_code,
        sum(compare(folder / out, undisturbed / out) for out in outs),
    )  # fmt: skip


def run(folder: Path, stage: str) -> Ended:
    """`python -m stages.STAGE` there, its disk looked at every few milliseconds."""
    name, _, item = stage.partition("@")
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{name}", *([item] if item else [])],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
        most, when = 0, begin
        while process.poll() is None:
            if (now := used(folder)) > most:
                most, when = now, time.monotonic()
            time.sleep(0.002)
        since = time.monotonic() - when
        output.seek(0)
        return Ended(process.returncode, output.read(), most, since)


@contextmanager
def disk_with_project(scratch: Path, reference: Path, stage: str) -> Iterator[Path]:
    """The project on a tmpfs, as it is when `stage` is about to run."""
    folder = scratch / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOMY}", "tmpfs", folder], check=True)
    try:
        left_out = shutil.ignore_patterns(".git", ".dvc", ".triplex", "__pycache__")
        shutil.copytree(reference, folder, symlinks=True, dirs_exist_ok=True, ignore=left_out)
        for out in declarations(reference / "dvc.yaml")[stage]["outs"]:
            remove(folder / out)
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def resize(folder: Path, size: int) -> None:
    """Change the size of the tmpfs there."""
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def used(folder: Path) -> int:
    """Bytes that are taken on the disk of `folder`."""
    return shutil.disk_usage(folder).used


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| stage | room | exit code | seconds to exit | in words | checkpoints left | with room: exit code, bytes off |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        ends = f"{row.exit_code} | {row.seconds:.1f} | {'yes' if row.in_words else 'no'} | {row.checkpoints}"
        again = f"{row.exit_code_with_room}, {row.differing_bytes}"
        lines.append(f"| {row.stage} | {row.share} % ({row.kilobytes:,} kB) | {ends} | {again} |")
    return "\n".join(lines)


def main() -> None:
    """Fill, run again, print the table; exit code 1 where a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=STAGES)
    parser.add_argument("--reference", type=Path, help="a copy of the project in which the tiny preset has run")
    options = parser.parse_args()
    rows = measure(options.stages, options.reference)
    print(table(rows))
    kept = [
        row.exit_code == Exit.NO_SPACE and row.in_words and row.seconds < 10
        and row.exit_code_with_room == 0 and row.differing_bytes == 0
        for row in rows
    ]  # fmt: skip
    if not all(kept):
        sys.exit(1)


if __name__ == "__main__":
    main()
