"""The cache: objects and records of runs whose bytes are not those that their names stand for."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.doctor.finding import Finding
from pipelines.doctor.locked import cache_folder, entries, files_of, measured, stages_in_lock
from pipelines.md5 import md5_file
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml


def corrupt_objects() -> Iterator[Finding]:
    """Objects whose bytes have another MD5 than their name; DVC trusts a read-only object and calls it up to date."""
    corrupt = [path for path in _files("files/md5") if _is_corrupt(path)]
    owners = _owners() if corrupt else {}
    for path in corrupt:
        belongs = owners.get(path.parent.name + path.name, {})
        names = ", ".join(f"{name} ({stage})" for name, stage in belongs.items()) or "no run that is recorded"

        yield Finding(
            "corrupt cache object", str(path), f"other bytes than were cached; belongs to {names}",
            "`python -m pipelines doctor --repair` removes it; then `dvc pull`, or `dvc repro` makes it again",
            partial(_remove, path, list(belongs)),
        )  # fmt: skip


def corrupt_runs() -> Iterator[Finding]:
    """Records of the run cache that are not what their names are the hash of, and folders that lost their record."""
    for path in _files("runs"):
        if wrong := _wrong_record(path):
            yield Finding(
                "corrupt record of a run", str(path), f"{wrong}; DVC could restore wrong outs from it",
                "`python -m pipelines doctor --repair` removes it", partial(_remove_record, path),
            )  # fmt: skip
    for folder in sorted((cache_folder() / "runs").glob("*/*")):
        if not any(folder.iterdir()):
            yield Finding(
                "lost record of a run", str(folder), "an empty folder; `dvc repro` fails with a TypeError on it",
                "`python -m pipelines doctor --repair` removes it", partial(_remove_folder, folder),
            )  # fmt: skip


def _remove_folder(folder: Path) -> str:
    folder.rmdir()
    return "removed"


def _remove_record(path: Path) -> str:
    path.unlink()
    if not any(path.parent.iterdir()):  # DVC falls over the empty folder
        path.parent.rmdir()
    return "removed"


def _remove(path: Path, names: list[str]) -> str:
    """Remove a file of the cache and those of the workspace that are links to it."""
    linked = [name for name in names if Path(name).exists() and os.path.samefile(name, path)]
    for name in linked:
        Path(name).unlink()
    path.unlink()
    return "removed" + (f", with what was linked to it: {', '.join(linked)}" if linked else "")


def _files(kind: str) -> list[Path]:
    return sorted(path for path in (cache_folder() / kind).rglob("*") if path.is_file() and path.suffix != ".tmp")


def _is_corrupt(path: Path) -> bool:
    return md5_file(path) != (path.parent.name + path.name).removesuffix(".dir")


def _owners() -> dict[str, dict[str, str]]:
    """By object: the paths whose bytes it holds, each with its stage or the command of an earlier run."""
    recorded = dict(stages_in_lock())
    for path in _files("runs"):
        if not _wrong_record(path):
            record = load_yaml(path)
            recorded[f"an earlier run of `{record['cmd']}`"] = record
    owners: dict[str, dict[str, str]] = {}
    for stage, record in recorded.items():
        for entry in entries(stage, record):
            if entry.is_out:
                owners.setdefault(entry.md5, {}).setdefault(entry.path, stage)
                for name, md5 in (files_of(entry) or {}).items():
                    owners.setdefault(md5, {}).setdefault(name, stage)
    return owners


def _wrong_record(path: Path) -> str | None:
    """Why a file of the run cache is not what DVC wrote: RUNS/ab/KEY/VALUE, KEY of the inputs, VALUE of the whole."""
    from dvc.stage.cache import _get_cache_hash

    try:
        record: dict[str, Any] = load_yaml(path)
        value = _get_cache_hash(dict(record))
        key = _get_cache_hash({**record, "outs": [dict(out) for out in record.get("outs", [])]}, key=True)
    except InputError as error:
        return error.what
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # readable as YAML, and no record
        return f"no record of a run ({type(error).__name__} {error})"
    if (key, value) != (path.parent.name, path.name):
        return "its name is not the hash of what it holds"
    for entry in entries("", record):  # sizes are not in the hash
        if measured(entry) not in (None, (entry.size, entry.num_files)):
            return f"{entry.path} has another size"
    return None
