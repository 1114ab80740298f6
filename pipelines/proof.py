"""Proof of a run: every file hashed anew, every stage executed anew in a fresh clone, the first difference named."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.clone import check_committed, execute, first_rows, fresh_clone, give_inputs, run_folder
from pipelines.contents import differing_keys, first_difference
from pipelines.rehash import Locked, check_whole, first_problem, read_lock
from pipelines.steps import first_step
from triplex.runs.digests import DIGESTS, read_rows
from triplex.runs.errors import InputError
from triplex.runs.manifest import DVC_FILE, declarations, hash_files, manifest_path, read_manifest
from triplex.runs.params import nearest

#: numbers a, b of runs in two environments count as equal where |a - b| <= TOLERANCE * (1 + |b|)
TOLERANCE = 1e-3
#: from the least to the most
LEVELS = {
    "D0": "seeded: the same data, parameters and seeds, other numbers",
    "D3": f"equal within {TOLERANCE:g} * (1 + |value|)",
    "D1": "bit-identical",
}


@dataclass(frozen=True)
class Verdict:
    """Of a stage: the first difference, None where there is none, and the level of reproducibility it has shown."""

    stage: str
    difference: str | None
    level: str | None


@dataclass(frozen=True)
class Proof:
    """Of a run: what its stages have shown, and the least level among them; None where a file is not what was written.

    The last verdict is the one that ended a proof that failed.
    """

    level: str | None
    verdicts: tuple[Verdict, ...]

    @property
    def matches(self) -> bool:
        """Whether the run is what its commit gives."""
        return self.level not in (None, "D0")


def prove(run: str, stage: str | None, steps: int | None, console: Console) -> Proof:
    """Hold the run to its commit, told line by line; the work of `python -m pipelines verify`."""
    with run_folder(run) as root:
        lock = read_lock(root)
        names = _chosen(root, lock, stage, steps)
        check_committed(root)
        if (found := first_problem(root, lock)) is not None:
            console.print(f"DIFFERS: {found[0]}, from what the run wrote\n  {found[1]}")
            return Proof(None, (Verdict(*found, None),))
        num_files = len({file for locked in lock.values() for out in locked.outs for file in hash_files(root / out)})
        console.print(f"{num_files} files of {len(lock)} stages: as dvc.lock and the manifests say")
        verdicts = []
        for verdict in _again(root, lock, names, steps):
            console.print(f"{verdict.stage}: {verdict.difference or 'the same'}")
            verdicts.append(verdict)
            if verdict.level == "D0":
                break
    level = next(level for level in LEVELS if level in {verdict.level for verdict in verdicts})
    done = ", ".join(verdict.stage for verdict in verdicts)
    what = f"the first {steps} steps of {done}" if steps else done
    console.print(f"{'DIFFERS: ' + verdicts[-1].stage if level == 'D0' else 'MATCH: ' + what}")
    console.print(f"reproducibility {level}: {LEVELS[level]}")
    return Proof(level, tuple(verdicts))


def _chosen(root: Path, lock: dict[str, Locked], stage: str | None, steps: int | None) -> list[str]:
    """The stages to execute, in the order of dvc.yaml."""
    check_whole(root, lock)
    declared = declarations(root / DVC_FILE)
    names = [name for name in declared if stage in (None, name)]
    if not names:
        raise InputError("--stage", f"{stage!r} is not in dvc.yaml", nearest(str(stage), declared))
    if steps is None:
        return names
    trained = [name for name in names if _rows(root, name, lock[name])]
    if not trained:
        raise InputError("--steps", f"{', '.join(names)}: nothing was trained there", "leave it out")
    return trained


def _again(root: Path, lock: dict[str, Locked], names: list[str], steps: int | None) -> Iterator[Verdict]:
    """Execute the stages, one after the other, and compare."""
    with fresh_clone(root) as clone:
        for name in names:
            give_inputs(root, clone, name, lock)
            if steps is None:
                execute(clone, name, lock[name])
                yield _compare(root, clone, name, lock[name])
            else:
                rows = first_rows(clone, name, lock[name], steps)
                found = first_step(_rows(root, name, lock[name])[:steps], rows)
                yield Verdict(name, f"{found} (here | executed anew)" if found else None, "D0" if found else "D1")


def _compare(root: Path, clone: Path, name: str, locked: Locked) -> Verdict:
    """What a stage wrote in both folders: byte for byte, or in another environment within the tolerance."""
    one, other = read_manifest(name, root), read_manifest(name, clone)
    identity = [next(differing_keys(one[key], other[key], place=key), None) for key in ("params", "inputs")]
    elsewhere = "; ".join(differing_keys(one["environment"], other["environment"], place="environment"))
    found = next(filter(None, identity), None) or _first_file(root, clone, name, locked, 0.0)
    if found is None:
        return Verdict(name, f"the same, though {elsewhere}" if elsewhere else None, "D1")
    step = first_step(_rows(root, name, locked), _rows(clone, name, locked))
    told = f"{found}{f', first at {step}' if step else ''} (here | executed anew)"
    if elsewhere and not any(identity) and _first_file(root, clone, name, locked, TOLERANCE) is None:
        return Verdict(name, f"{told}; within the tolerance, and {elsewhere}", "D3")
    return Verdict(name, f"{told}; {elsewhere}" if elsewhere else told, "D0")


def _first_file(root: Path, clone: Path, name: str, locked: Locked, tolerance: float) -> str | None:
    """The first file that a stage wrote otherwise, and where; digests and its manifest only follow the others."""
    outs = [out for out in locked.outs if Path(out) != manifest_path(name) and DIGESTS not in Path(out).parents]
    for out in [*outs, *(out for out in locked.outs if DIGESTS in Path(out).parents and not tolerance)]:
        here, there = ({Path(f).relative_to(base).as_posix() for f in hash_files(base / out)} for base in (root, clone))
        for file in sorted(here | there):
            if file not in here or file not in there:
                return f"{file}: {'there' if file in here else 'missing'} | {'there' if file in there else 'missing'}"
            if (found := first_difference(root / file, clone / file, tolerance)) is not None:
                return f"{file}: {found}"
    return None


def _rows(root: Path, name: str, locked: Locked) -> list[dict[str, Any]]:
    """A stage's digests, none where it trains nothing."""
    path = DIGESTS / f"{name.replace('@', '-')}.jsonl"
    return read_rows(root / path) if str(path) in locked.outs else []
