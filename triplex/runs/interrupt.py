"""SIGTERM and Ctrl-C: a training loop writes a checkpoint first, everything else ends at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_requested: int | None = None
_deferred = False
_file: Path | None = None


class Interrupted(SystemExit):
    """The process was asked to end by `signal`, and does: exit code 128 + signal (143 for SIGTERM, 130 for SIGINT)."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(128 + number)


def install() -> None:
    """From here on SIGTERM and SIGINT raise `Interrupted` in the main thread, at once or where a loop looks."""
    global _requested
    _requested = None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)


def listen(path: Path) -> None:
    """A file with a signal's number asks too: by it a stage tells its workers."""
    global _file
    _file = path


def requested() -> int | None:
    """The signal that has asked this process to end, None while there is none."""
    if _requested is None and _file is not None and _file.is_file():
        return int(_file.read_text(encoding="ascii"))
    return _requested


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal interrupts nothing: the loop asks `requested()` where it can go on from, saves and raises.

    Without an exception from inside, a signal that the loop no longer looked at ends the process here.
    """
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    if _requested is not None:
        raise Interrupted(_requested)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _requested
    first, _requested = _requested is None, number
    if not _deferred:
        raise Interrupted(number)
    if first:
        os.write(2, b"stopping where it can go on from, with a checkpoint\n")
