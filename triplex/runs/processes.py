"""Processes that end with the one above them, and all of them ended before anything goes on."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

GRACE_SECONDS = 5.0
STOP_SECONDS = 30.0  # where somebody has asked for the end: time for a checkpoint
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def end_all(members: Callable[[], list[psutil.Process]], grace_seconds: float = GRACE_SECONDS) -> None:
    """Terminate all `members()`, kill those that are still there after the grace period, return when none is left."""
    for process in members():
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + grace_seconds
    while remaining := members():
        time.sleep(0.05)
        for process in remaining if time.monotonic() > deadline else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def descendants() -> list[psutil.Process]:
    """The living processes below this one."""
    return living(psutil.Process().children(recursive=True))


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that run; one that has ended and that nobody has asked about is dead."""

    def lives(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    return [process for process in processes if lives(process)]


def adopt_orphans() -> None:
    """Become the parent of every process below whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent: int) -> None:
    """Have Linux kill this process, a child of `parent`, when `parent` ends, however it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def exit_code(status: int) -> int:
    """The exit code as a shell tells it, 128 + N after signal N, of what Popen or waitstatus_to_exitcode returned."""
    return status if status >= 0 else 128 - status


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)
