"""DVC's own lock: which process reads or writes which path."""

import json
from pathlib import Path

import psutil

from triplex.runs.errors import BusyError

RWLOCK = Path(".dvc/tmp/rwlock")  # JSON


def claims() -> list[tuple[str, int]] | None:
    """(path, process) of what is read or written, None where the lock is torn."""
    read = _read()
    if read is None:
        return None
    readers = [(path, info["pid"]) for path, infos in read["read"].items() for info in infos]
    return readers + _writers(read)


def refuse_while_written() -> None:
    """BusyError while a DVC that lives writes outs of a stage."""
    for _, pid in _writers(_read() or {}):
        if is_dvc(pid):
            raise BusyError("dvc", f"running a stage here (process {pid})", "wait for its end, or end it by Ctrl-C")


def is_dvc(pid: int) -> bool:
    """Whether a process lives and is a DVC; the number of one that has ended is given to others."""
    try:
        return any("dvc" in Path(part).name for part in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False


def _writers(read: dict[str, dict]) -> list[tuple[str, int]]:
    return [(path, info["pid"]) for path, info in read.get("write", {}).items()]


def _read() -> dict[str, dict] | None:
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    if not RWLOCK.is_file():
        return {"read": {}, "write": {}}
    try:
        return SCHEMA(json.loads(RWLOCK.read_text(encoding="utf-8")))
    except (ValueError, Invalid):
        return None
