"""Every file of a run, hashed anew, against dvc.lock and the manifests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.contents import differing_keys, first_difference
from pipelines.md5 import md5_file, md5_of
from triplex.runs.errors import InputError
from triplex.runs.manifest import DVC_FILE, declarations, hash_files, manifest_path, read_manifest
from triplex.runs.params import load_yaml

LOCK_FILE = Path("dvc.lock")


class Locked(NamedTuple):
    """What dvc.lock says of a stage: the command, deps and outs with their MD5, parameters by file and key."""

    cmd: str
    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, dict[str, Any]]


def read_lock(root: Path) -> dict[str, Locked]:
    """The stages of dvc.lock by name; InputError where there is none."""
    path = root / LOCK_FILE
    if not path.is_file() or not path.stat().st_size:
        raise InputError(path, "missing or empty: nothing says what the run wrote", "`dvc repro` runs it")
    return {
        name: Locked(
            stage["cmd"],
            {dep["path"]: dep["md5"] for dep in stage.get("deps", [])},
            {out["path"]: out["md5"] for out in stage.get("outs", [])},
            stage.get("params", {}),
        )
        for name, stage in load_yaml(path).get("stages", {}).items()
    }


def check_whole(root: Path, lock: dict[str, Locked]) -> None:
    """InputError where a stage of dvc.yaml has never run."""
    if never_run := [name for name in declarations(root / DVC_FILE) if name not in lock]:
        raise InputError(root / LOCK_FILE, f"has no {', '.join(never_run)}", "`dvc repro` runs them")


def first_problem(root: Path, lock: dict[str, Locked]) -> tuple[str, str] | None:
    """(stage, what of it is not as its run left it), None where every file of every stage is."""
    return next(((name, problem) for name, locked in lock.items() for problem in problems(root, name, locked)), None)


def problems(root: Path, name: str, locked: Locked) -> Iterator[str]:
    """What of a stage is not as dvc.lock and its manifest say: parameters, inputs, then file by file what it wrote."""
    for file, values in locked.params.items():
        now = load_yaml(root / file)
        for key, value in values.items():  # sections, as dvc.yaml lists them
            lines = differing_keys(now.get(key), value, place=key)
            yield from (f"{file}: {line} (now | when {name} ran)" for line in lines)
    for dep, md5 in locked.deps.items():
        if not (root / dep).exists():
            yield f"{dep}: missing"
        elif md5_of(root / dep) != md5:
            yield f"{dep}: not what {name} ran on, says {LOCK_FILE}; `dvc repro` runs it again"
    if str(manifest_path(name)) in locked.outs:
        yield from _against_manifest(root, name, locked)
    for out, md5 in locked.outs.items():
        if not (root / out).exists():
            yield f"{out}: missing"
        elif (found := md5_of(root / out)) != md5:
            yield f"{out}: MD5 {found}, {LOCK_FILE} says {md5}"


def _against_manifest(root: Path, name: str, locked: Locked) -> Iterator[str]:
    try:
        written = read_manifest(name, root)["files"]
    except InputError as error:
        yield str(error)
        return
    there = {
        Path(file).relative_to(root).as_posix(): entry
        for out in locked.outs
        if Path(out) != manifest_path(name) and (root / out).exists()
        for file, entry in hash_files(root / out).items()
    }
    for file in sorted(there.keys() | written.keys()):
        if file not in there:
            yield f"{file}: missing, though the manifest of {name} has it"
        elif file not in written:
            yield f"{file}: not in the manifest of {name}"
        elif there[file] != written[file]:
            where = _from_cache(root, file, locked.outs)
            hashes = f"SHA-256 {there[file]['sha256']}, the manifest of {name} says {written[file]['sha256']}"
            yield f"{file}: {where or hashes}"


def _from_cache(root: Path, file: str, outs: dict[str, str]) -> str | None:
    """Where `file` parts from what DVC's cache has for it; None without a sound object there."""
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    cache = Repo(str(root)).cache.local
    out = next(out for out in outs if Path(out) in (Path(file), *Path(file).parents))
    oid = outs[out]
    if oid.endswith(".dir"):
        if not cache.exists(oid):
            return None
        parts = Path(file).relative_to(out).parts
        oid = next((info.value for key, _, info in Tree.load(cache, HashInfo("md5", oid)) if key == parts), "")
    path = Path(cache.oid_to_path(oid)) if oid else None
    if path is None or not path.is_file() or md5_file(path) != oid:
        return None
    return f"{first_difference(root / file, path)} (here | as it was written)"
