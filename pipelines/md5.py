"""DVC's names for bytes: the MD5 of a file, and of a folder that of the list of its files."""

import hashlib
import json
from functools import partial
from pathlib import Path

_new_md5 = partial(hashlib.md5, usedforsecurity=False)


def md5_of(path: Path) -> str:
    """What dvc.lock holds for a file or folder."""
    return md5_file(path) if path.is_file() else md5_listing(path, files_below(path))


def md5_file(path: Path) -> str:
    """Hex MD5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_md5).hexdigest()


def md5_listing(folder: Path, files: set[str]) -> str:
    """DVC's name for a folder with these files: the MD5 of their list, and .dir."""
    names = sorted((Path(name).relative_to(folder).as_posix(), name) for name in files)
    listing = [{"md5": md5_file(Path(name)), "relpath": relative} for relative, name in names]
    return f"{_new_md5(json.dumps(listing, sort_keys=True).encode()).hexdigest()}.dir"


def files_below(path: Path) -> set[str]:
    """The file, or every file of the folder, by its path."""
    return {file.as_posix() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()}
