"""dvc.lock: empty, broken or contradicted by what it names, and its restoration from the run cache and git."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.doctor.finding import Finding, set_aside
from pipelines.doctor.locked import LOCK_FILE, entries, measured, stages_in_lock
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml


def broken_lock() -> Iterator[Finding]:
    """A dvc.lock that DVC cannot read, as a killed `dvc` leaves it: it is written in place."""
    if LOCK_FILE.exists() and (wrong := what_is_wrong(LOCK_FILE)):
        yield Finding(
            "broken dvc.lock", str(LOCK_FILE), f"{wrong}; every command of DVC fails",
            "from the run cache and the last commit: `python -m pipelines doctor --repair`", restore,
        )  # fmt: skip


def contradicted_lock() -> Iterator[Finding]:
    """Sizes and numbers of files in dvc.lock that are not those of the bytes that it names."""
    for stage, recorded in stages_in_lock().items() if what_is_wrong(LOCK_FILE) is None else ():
        for entry in entries(stage, recorded):
            there = measured(entry)
            if there is not None and there != (entry.size, entry.num_files):
                yield Finding(
                    "wrong size in dvc.lock", f"{LOCK_FILE}: {stage}: {entry.path}",
                    f"{_told(entry.size, entry.num_files)} written, {_told(*there)} there; dvc.lock was damaged",
                    "from the run cache and the last commit: `python -m pipelines doctor --repair`", restore,
                )  # fmt: skip
                return  # one restoration mends all


def what_is_wrong(path: Path) -> str | None:
    """Why DVC cannot read a lock file, None where it can."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    if path.stat().st_size == 0:
        return "0 bytes"
    try:
        value = COMPILED_LOCKFILE_SCHEMA(load_yaml(path))
    except InputError as error:
        return f"{error.where}: {error.what}"
    except Invalid as error:
        return f"not in the form of a lock file ({error})"
    for stage, recorded in value.get("stages", {}).items():
        for item in [*recorded.get("deps", []), *recorded.get("outs", [])]:
            if item.get("hash", "md5") != "md5":  # DVC ends with a NotImplementedError
                return f"{stage}: {item['path']}: no such hash as {item['hash']!r}"
    return None


def restore() -> str:
    """Set dvc.lock aside; write what the run cache knows of today's inputs, and what else the last commit has."""
    aside = set_aside(LOCK_FILE)
    committed = _committed(aside.with_name("dvc.lock.committed"))
    from_runs = _from_run_cache()
    from_git = [stage for stage in committed if stage not in from_runs]
    if from_git:
        _add({stage: committed[stage] for stage in from_git})
    parts = [f"{len(from_runs)} stages from the run cache", f"{len(from_git)} from the last commit"]
    return f"written anew, {' and '.join(parts)}; the old one is {aside}; `dvc repro` adds what is missing"


def _from_run_cache() -> list[str]:
    """The stages that DVC would skip because it has run them with these inputs; their outs are checked out."""
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro
    from dvc.stage import PipelineStage
    from dvc.stage.cache import RunCacheNotFoundError

    repo = Repo(".")
    found = []
    with repo.lock:
        for stage in plan_repro(repo.index.graph):
            if not isinstance(stage, PipelineStage) or not all(dep.exists for dep in stage.deps):
                continue
            try:
                repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                continue
            stage.save()
            stage.dump(update_pipeline=False)
            found.append(stage.name)
    return found


def _committed(copy: Path) -> dict[str, Any]:
    """The stages in dvc.lock of the last commit, none where it has no sound one."""
    shown = subprocess.run(["git", "show", f"HEAD:./{LOCK_FILE}"], capture_output=True)
    if shown.returncode or not shown.stdout:
        return {}
    copy.write_bytes(shown.stdout)
    stages = load_yaml(copy)["stages"] if what_is_wrong(copy) is None else {}
    copy.unlink()
    return stages


def _add(stages: dict[str, Any]) -> None:
    from dvc.utils.serialize import dumps_yaml

    from triplex.runs.files import write_text

    document: dict[str, Any] = load_yaml(LOCK_FILE) if LOCK_FILE.is_file() else {"schema": "2.0", "stages": {}}
    document["stages"] |= stages
    write_text(LOCK_FILE, dumps_yaml(document))


def _told(size: int | None, num_files: int | None) -> str:
    return f"{size} bytes" + (f" in {num_files} files" if num_files is not None else "")
