"""What dvc.lock and the run cache say: which stage wrote which bytes, and where DVC keeps them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.md5 import files_below, md5_file, md5_listing
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml

LOCK_FILE = Path("dvc.lock")
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Entry:
    """A dep or an out of a stage as DVC has recorded it; `md5` ends in .dir for a folder."""

    stage: str
    path: str
    md5: str
    size: int | None
    num_files: int | None
    is_out: bool


def cache_folder() -> Path:
    """Where DVC keeps objects (files/md5) and the run cache (runs), relative to the project where it lies inside."""
    from dvc.config import Config

    folder = Path(Config(str(Path(".dvc").absolute()))["cache"].get("dir") or ".dvc/cache").absolute()
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def object_path(md5: str) -> Path:
    """Where the cache has the object of this name."""
    return cache_folder() / "files" / "md5" / md5[:2] / md5[2:]


def stages_in_lock() -> dict[str, dict[str, Any]]:
    """The stages of ./dvc.lock; none where it is missing or not to be read, which `broken_lock` tells."""
    try:
        return load_yaml(LOCK_FILE).get("stages") or {}
    except InputError:
        return {}


def entries(stage: str, recorded: dict[str, Any]) -> Iterator[Entry]:
    """The deps and outs of a stage of dvc.lock, or of an entry of the run cache, that have an MD5."""
    for section in ("deps", "outs"):
        for item in recorded.get(section, []):
            if _MD5.fullmatch(str(item.get("md5"))):
                size, num_files = item.get("size"), item.get("nfiles")
                yield Entry(stage, item["path"], item["md5"], size, num_files, section == "outs")


def files_of(entry: Entry) -> dict[str, str] | None:
    """MD5 of each file of an entry by its path; None for a folder whose list is not, or not whole, in the cache."""
    if not entry.md5.endswith(".dir"):
        return {entry.path: entry.md5}
    listing = object_path(entry.md5)
    if not listing.is_file() or f"{md5_file(listing)}.dir" != entry.md5:
        return None
    files = json.loads(listing.read_text(encoding="utf-8"))
    return {f"{entry.path}/{file['relpath']}": file["md5"] for file in files}


def measured(entry: Entry) -> tuple[int, int | None] | None:
    """(bytes, number of files of a folder) of what an entry names, None where neither cache nor workspace has it."""
    files = files_of(entry)
    if files is None:  # a folder that git keeps, or whose list is lost
        there = files_below(Path(entry.path))
        if md5_listing(Path(entry.path), there) != entry.md5:
            return None
        return sum(Path(name).stat().st_size for name in there), len(there)
    sizes = [_size(path, md5) for path, md5 in files.items()]
    if None in sizes:
        return None
    return sum(size for size in sizes if size is not None), len(sizes) if entry.md5.endswith(".dir") else None


def _size(path: str, md5: str) -> int | None:
    if (stored := object_path(md5)).is_file():
        return stored.stat().st_size
    return Path(path).stat().st_size if Path(path).is_file() and md5_file(Path(path)) == md5 else None
