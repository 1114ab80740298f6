"""Checkpoints beyond this machine, put to TRIPLEX_CHECKPOINTS and fetched where none is here: object stores, folders.

A checkpoint there counts once its manifest is there, which is put last; what comes back is verified like any other.
"""

import os
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from triplex.runs.errors import InputError
from triplex.runs.files import atomic_folder, write_text
from triplex.runs.states import STATES

STORAGE = "TRIPLEX_CHECKPOINTS"
_ROWS = "*.jsonl"  # which grow beside the checkpoints


def place(state: Path) -> tuple[Any, str] | None:
    """(file system, folder) that stands for the state folder `state` there; None where nothing is asked for."""
    url = os.environ.get(STORAGE)
    if not url:
        return None
    try:
        file_system, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        remedy = "pip install the library that it names (of S3: 'triplex[s3]'), or mend the address"
        raise InputError(_where(), str(error), remedy) from error
    if isinstance(file_system, LocalFileSystem):
        file_system.auto_mkdir = True  # object stores have no folders
    resolved, states = state.resolve(), STATES.resolve()
    name = resolved.relative_to(states).as_posix() if resolved.is_relative_to(states) else resolved.name
    return file_system, f"{root.rstrip('/')}/{name}"


def check_storage(state: Path) -> None:
    """InputError unless something can be written, read back and removed there."""
    if (found := place(state)) is None:
        return
    file_system, folder = found
    probe = f"{folder}/probe"
    try:
        file_system.pipe_file(probe, b"probe")
        back = file_system.cat_file(probe)
        file_system.rm_file(probe)
    except Exception as error:  # of each library its own
        raise InputError(_where(), f"cannot be written: {error}", "mend the address or the credentials") from error
    if back != b"probe":
        raise InputError(_where(), "gives back other bytes than were written", "look at the storage")


def put(checkpoint: Path, manifest: str, kept: int) -> None:
    """Copy a whole checkpoint, its manifest last; of those that are there the newest `kept` stay."""
    if (found := place(checkpoint.parent)) is None:
        return
    file_system, folder = found
    rows = [path for path in sorted(checkpoint.parent.glob(_ROWS)) if path.is_file()]
    for path in rows:
        file_system.put_file(str(path), f"{folder}/{path.name}")
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != manifest)
    for path in [*files, checkpoint / manifest]:
        target = f"{folder}/{checkpoint.name}/{path.relative_to(checkpoint).as_posix()}"
        file_system.put_file(str(path), target)
    for old in _checkpoints(file_system, folder)[:-kept]:
        file_system.rm(old, recursive=True)


def fetch(state: Path, manifest: str) -> list[Path]:
    """Copy what is there into `state`, which has no checkpoint; the whole ones, oldest first."""
    if (found := place(state)) is None:
        return []
    file_system, folder = found
    fetched = []
    for there in _checkpoints(file_system, folder):
        if not file_system.exists(f"{there}/{manifest}"):
            continue
        path = state / there.rpartition("/")[2]
        with atomic_folder(path) as aside:
            for name in file_system.find(there):
                target = aside / name[len(there) + 1 :]
                target.parent.mkdir(parents=True, exist_ok=True)
                file_system.get_file(name, str(target))
        fetched.append(path)
    for name in file_system.ls(folder, detail=False) if fetched else []:
        if name.endswith(_ROWS[1:]):
            write_text(state / name.rpartition("/")[2], file_system.cat_file(name).decode())
    return fetched


def remove(state: Path) -> None:
    """What stands for `state` there, when its run has ended well."""
    if (found := place(state)) is not None and found[0].exists(found[1]):
        found[0].rm(found[1], recursive=True)


def _checkpoints(file_system: Any, folder: str) -> list[str]:
    """Paths of the folders of checkpoints, oldest first as their names are made."""
    file_system.invalidate_cache()
    if not file_system.exists(folder):
        return []
    return sorted(name.rstrip("/") for name in file_system.ls(folder, detail=False)
                  if name.rstrip("/").rpartition("/")[2].startswith("step-"))  # fmt: skip


def _where() -> str:
    return f"environment: {STORAGE} = {os.environ[STORAGE]}"
