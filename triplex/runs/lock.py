"""One run of a stage at a time: its lock, which carries the heartbeat of the run that holds it."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from triplex.runs.errors import BusyError

LOCKS = Path(".triplex/locks")
WAIT_SECONDS = 15.0  # more than a run whose DVC was killed has left
_BEAT_SECONDS = 1.0
_RECORD_BYTES = 512  # always as many, so that a reader never meets the end of a longer one


@dataclass(frozen=True)
class Heartbeat:
    """Who runs a stage, since when, when it was last heard of, and how far it was; times in UTC."""

    pid: int
    since: str
    time: str
    work: str = ""  # what is counted: the stage's name, or a part of its work
    step: int = 0
    total: int = 0

    def progress(self) -> str:
        """`train@ppo step 40 of 240`; nothing before the first step."""
        return f"{self.work} step {self.step} of {self.total}" if self.total else ""


class _Held:
    """The lock of this process."""

    def __init__(self, file: int) -> None:
        self._file, self._written = file, 0.0
        self.last = Heartbeat(os.getpid(), _now(), _now())
        self.write()

    def beat(self, work: str, step: int, total: int) -> None:
        self.last = replace(self.last, time=_now(), work=work, step=step, total=total)
        if time.monotonic() - self._written >= _BEAT_SECONDS:
            self.write()

    def write(self) -> None:
        os.pwrite(self._file, json.dumps(asdict(self.last)).encode().ljust(_RECORD_BYTES), 0)
        self._written = time.monotonic()


_held: list[_Held] = []  # the stage that this process runs; none in one that runs no stage


@contextmanager
def hold(name: str) -> Iterator[None]:
    """Hold the lock of stage `name`; it is free again when this process and all its forks have ended.

    Waits WAIT_SECONDS for a run that is ending, then raises BusyError. The heartbeat is erased on the way out, so one
    whose lock is free is that of a run which was killed.
    """
    path = lock_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait(name, file)
        _held.append(_Held(file))
        try:
            yield
        finally:
            _held.pop()
            os.ftruncate(file, 0)
    finally:
        os.close(file)


def beat(work: str, step: int, total: int) -> None:
    """Say that `step` of `total` steps of `work` are done, where this process holds a stage's lock."""
    for held in _held:
        held.beat(work, step, total)


def last_beat() -> Heartbeat:
    """What this process, which holds a lock, has said last."""
    return _held[-1].last


def lock_path(name: str) -> Path:
    """Where the lock of stage `name` lies."""
    return LOCKS / f"{name.replace('@', '-')}.lock"


def read(path: Path) -> tuple[Heartbeat | None, bool]:
    """The heartbeat in a lock, None after a run that has ended in order, and whether the run lives."""
    file = os.open(path, os.O_RDONLY)
    try:
        lives = not _take(file, fcntl.LOCK_SH)
        return _read(file), lives
    finally:
        os.close(file)


def _wait(name: str, file: int) -> None:
    """Take the lock, or BusyError."""
    if _take(file, fcntl.LOCK_EX):
        return
    print(f"stage {name}: {_owner(file)}; waiting {WAIT_SECONDS:.0f} s for it to end", file=sys.stderr, flush=True)
    deadline = time.monotonic() + WAIT_SECONDS
    while not _take(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            raise BusyError(f"stage {name}", _owner(file), "wait until it is done, or end that process, and run again")
        time.sleep(0.1)


def _take(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: int) -> Heartbeat | None:
    text = os.pread(file, _RECORD_BYTES, 0).strip()
    return Heartbeat(**json.loads(text)) if text else None


def _owner(file: int) -> str:
    found = _read(file)
    if found is None:
        return "another run has just begun"
    progress = f", {found.progress()} at {found.time}" if found.progress() else ""
    return f"process {found.pid} has been running it since {found.since}{progress}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
