"""Checkpoints: folders that vouch for their own content, of which the newest whole one is resumed from."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from triplex.runs import storage
from triplex.runs.errors import InputError
from triplex.runs.files import atomic_folder, remove_folder, remove_strays, sha256_file, sync
from triplex.runs.seal import sealed, unsealed

MANIFEST = "manifest.json"
FORMAT = 1
KEPT = 2
_NAME = re.compile(r"step-(\d{6,})(?:-(\d{4,}))?")


@contextmanager
def write_checkpoint(
    state: Path, step: int, within: int | None = None, *, identity: Mapping[str, Any] | None = None,
    num_bytes: int | None = None,
) -> Iterator[Path]:  # fmt: skip
    """A folder for the files of the state after `step` steps, and `within` the next one after so many descents.

    It becomes STATE/step-000040, or STATE/step-000040-0003, with a manifest of its files and of `identity`, what a
    run must share with this one to go on from it. The older of the two others goes when this one has been read back.
    Files of rows in `state` grow beside the checkpoints; those of the steps that this one counts reach the disk first.
    """
    path = state / (f"step-{step:06d}" + ("" if within is None else f"-{within:04d}"))
    with atomic_folder(path, num_bytes) as folder:
        for rows in state.glob("*.jsonl"):
            sync(rows)
        yield folder
        files = {name: {"sha256": sha256_file(folder / name), "size": size} for name, size in _sizes(folder).items()}
        content = {"format": FORMAT, "identity": dict(identity or {}), "files": files}
        (folder / MANIFEST).write_text(sealed(content), encoding="utf-8")
    if wrong := what_is_wrong(path):
        raise InputError(path, f"written, and reads back otherwise: {wrong}", "look at the disk")
    storage.put(path, MANIFEST, KEPT)
    for old in _checkpoints(state)[:-KEPT]:
        remove_folder(old)


def newest(state: Path) -> Path | None:
    """The newest checkpoint in `state` that verifies; says which newer ones do not and why, and removes them.

    Where there is none it looks into the storage of `storage.py`, if the user has named one.
    """
    if not state.is_dir():
        return None
    remove_strays(state)
    for path in reversed(_checkpoints(state) or storage.fetch(state, MANIFEST)):
        wrong = what_is_wrong(path)
        if wrong is None:
            return path
        print(f"checkpoint {path} skipped: {wrong}", file=sys.stderr, flush=True)
        remove_folder(path)
    return None


def last_step(state: Path) -> int | None:
    """The step that the newest checkpoint in `state`, or in a folder of it, was written after, None without one."""
    names = [_NAME.fullmatch(path.name) for path in state.rglob("step-*")]
    return max((int(name[1]) for name in names if name), default=None)


def identity_of(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` was given for the checkpoint at `path`."""
    return json.loads((path / MANIFEST).read_text(encoding="utf-8"))["identity"]


def what_is_wrong(path: Path) -> str | None:
    """Why the checkpoint at `path` is not to be used, None where every byte is as it was written."""
    if not (path / MANIFEST).is_file():
        return f"no {MANIFEST}"
    content = unsealed((path / MANIFEST).read_bytes())
    if content is None:
        return f"{MANIFEST} has other bytes than were written (SHA-256)"
    if content["format"] != FORMAT:
        return f"format {content['format']}, this version reads {FORMAT}"
    sizes = _sizes(path)
    for name, written in content["files"].items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != written["size"]:
            return f"{name} has {sizes[name]} bytes, not {written['size']}"
        if sha256_file(path / name) != written["sha256"]:
            return f"{name} has other bytes than were written (SHA-256)"
    extra = sizes.keys() - content["files"].keys()
    return f"{min(extra)} was not written with it" if extra else None


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file but the manifest, by name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _checkpoints(state: Path) -> list[Path]:
    """Oldest first; the one inside a step comes after the one before that step."""
    found = [(match, path) for path in state.iterdir() if (match := _NAME.fullmatch(path.name))]
    order = {path: (int(match[1]), -1 if match[2] is None else int(match[2])) for match, path in found}
    return sorted(order, key=lambda path: order[path])
