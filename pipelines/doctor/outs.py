"""What stages wrote, where it lies: its bytes against dvc.lock and against the stages' manifests."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipelines.doctor.finding import Finding, set_aside
from pipelines.doctor.locked import Entry, entries, files_of, object_path, stages_in_lock
from pipelines.md5 import files_below, md5_file, md5_listing
from triplex.runs.errors import InputError
from triplex.runs.manifest import declarations, hash_files, manifest_path, read_manifest


def changed_outs() -> Iterator[Finding]:
    """Outs whose bytes are not those of dvc.lock; each file is read, so that what DVC takes for unchanged counts."""
    for stage, recorded in stages_in_lock().items():
        for entry in entries(stage, recorded):
            if entry.is_out and Path(entry.path).exists() and (wrong := _differing(entry)):
                yield Finding(
                    "changed out", ", ".join(wrong), f"not what {stage} wrote according to dvc.lock",
                    "`python -m pipelines doctor --repair` sets it aside and restores it, or lets `dvc repro` make it",
                    partial(_check_out, entry),
                )  # fmt: skip


def contradicted_manifests() -> Iterator[Finding]:
    """Manifests that are damaged, or that name other bytes than lie there though dvc.lock agrees with these."""
    locked = stages_in_lock()
    for stage, declared in declarations().items():
        manifest = manifest_path(stage)
        if str(manifest) not in declared["outs"] or stage not in locked or not manifest.is_file():
            continue
        if any(_differing(entry) for entry in entries(stage, locked[stage]) if entry.is_out):
            continue  # told by changed_outs
        try:
            written = read_manifest(stage)["files"]
        except InputError as error:
            yield Finding("damaged manifest", error.where, error.what, f"`dvc repro --force --single-item {stage}`")
            continue
        there = {name: file for out in declared["outs"] if out != str(manifest) for name, file in _hashes(out).items()}
        wrong = sorted(name for name in there.keys() | written.keys() if there.get(name) != written.get(name))
        if wrong:
            yield Finding(
                "outs of another run", ", ".join(wrong), f"{manifest} names other bytes; no stage will read these",
                f"`dvc repro --force --single-item {stage}`",
            )  # fmt: skip


def _hashes(out: str) -> dict[str, object]:
    return dict(hash_files(out)) if Path(out).exists() else {}


def _differing(entry: Entry) -> list[str]:
    """The files of an out that differ from, are missing in, or are added to what the cache's list says."""
    expected, there = files_of(entry), files_below(Path(entry.path))
    if expected is None:  # the list is lost, its hash is not
        return [] if md5_listing(Path(entry.path), there) == entry.md5 else [entry.path]
    changed = {name for name in expected.keys() & there if md5_file(Path(name)) != expected[name]}
    return sorted(changed | (expected.keys() ^ there))


def _check_out(entry: Entry) -> str:
    aside = set_aside(Path(entry.path))
    files = files_of(entry) or {}
    sound = all((stored := object_path(md5)).is_file() and md5_file(stored) == md5 for md5 in files.values())
    if not sound:
        return f"set aside as {aside}; the cache has no sound copy: `dvc repro` makes it again"
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        Repo(".").checkout([entry.path])
    except DvcException as error:
        raise InputError(entry.path, f"set aside as {aside}; `dvc checkout` failed: {error}", "dvc repro") from error
    return f"restored from the cache; what was there is {aside}"
