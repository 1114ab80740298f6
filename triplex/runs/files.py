"""Files and folders that are either whole or absent, and their SHA-256."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from triplex.runs.errors import DiskFullError, InputError

_ALMOST_FULL = 65536  # bytes free after a failed write; some libraries report no more than that it failed


@contextmanager
def atomic_path(path: str | Path, num_bytes: int | None = None) -> Iterator[Path]:
    """A temporary path in the folder of `path`; on success it is synced and renamed over `path`, else removed.

    What a killed writer of `path` has left is removed first. DiskFullError with the need (`num_bytes`, where it is
    known) and the free space when the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_strays(path.parent, path.name)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    with _written_aside(path, Path(name), handle, num_bytes) as temporary:
        yield temporary
        temporary.chmod(0o644)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


@contextmanager
def atomic_folder(path: str | Path, num_bytes: int | None = None) -> Iterator[Path]:
    """As `atomic_path`, a temporary folder that becomes `path`, with every file and folder in it synced.

    No file system puts a folder in the place of another in one go: where `path` exists, there is a moment without it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_strays(path.parent, path.name)
    name = _temporary_folder(path)
    with _written_aside(path, name, os.open(name, os.O_RDONLY), num_bytes) as temporary:
        yield temporary
        for entry in (temporary, *temporary.rglob("*")):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
            sync(entry)
        old = _temporary_folder(path) if path.exists() else None
        if old is not None:
            path.replace(old)
        temporary.replace(path)
        sync(path.parent)
        if old is not None:
            shutil.rmtree(old)


def remove_folder(path: Path) -> None:
    """Remove a folder so that no part of it is ever seen: it is renamed before its files go."""
    aside = _temporary_folder(path)
    path.replace(aside)
    shutil.rmtree(aside)


def remove_strays(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers of `name`, or of anything, left in `folder`.

    A living writer holds a lock on its temporary file or folder, which the kernel opens when the writer dies.
    """
    for path in strays(folder, name):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def strays(folder: Path, name: str | None = None) -> list[Path]:
    """What `remove_strays` removes."""
    found = []
    for path in sorted(folder.glob(f".{'*' if name is None else glob.escape(name)}.????????.tmp")):
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # its writer has just come to the end
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(path)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
    return found


@contextmanager
def told_when_full(path: Path) -> Iterator[None]:
    """An error inside that comes from a full disk is a DiskFullError about `path`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not _comes_from_a_full_disk(error, path.parent):
            raise
        raise _disk_full(path, None) from error


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    data = text.encode("utf-8")
    with atomic_path(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with a fixed key order, atomically; NaN and infinity are a ValueError."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of one file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(path: str | Path) -> str:
    """Hex SHA-256 of a file, or of a folder: over its sorted relative names and the hash of each file."""
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def _written_aside(path: Path, temporary: Path, handle: int, num_bytes: int | None) -> Iterator[Path]:
    """`temporary`, locked through `handle` while it is written, and gone at the end."""
    full = None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary
    except Exception as error:
        if isinstance(error, InputError) or not _comes_from_a_full_disk(error, path.parent):
            raise
        full = error
        for file in (temporary, *temporary.rglob("*")):
            if file.is_file():
                os.truncate(file, 0)  # the library that failed may hold it open, and with it its space
    finally:
        os.close(handle)
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)
    if full is not None:
        raise _disk_full(path, num_bytes) from full


def _temporary_folder(path: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))


def sync(path: Path) -> None:
    """Return when what `path`, a file or a folder's list of names, holds is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_full(path: Path, num_bytes: int | None) -> DiskFullError:
    need = "more than that" if num_bytes is None else f"{num_bytes / 1e6:,.2f} MB"
    free = shutil.disk_usage(path.parent).free
    what = f"no space left on the disk: {need} needed, {free / 1e6:,.2f} MB free"
    return DiskFullError(path, what, "make room and start again; finished work is kept")


def _comes_from_a_full_disk(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors has an exception of its own, with the system's words; torch says that it could not write
    words = os.strerror(errno.ENOSPC) in str(error) or "os error 28" in str(error)
    return words or shutil.disk_usage(folder).free < _ALMOST_FULL
