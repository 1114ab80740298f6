"""Which damage to a file is noticed, and by whom: `python -m benchmarks.fault_flips`, single bits flipped, files cut.

A small project is made in a temporary folder: the pipeline's kinds of files, written by Triplex, two stages with
manifests that DVC has run, two checkpoints. Each fault is planted in one file, whose times and mode stay as they were,
then what reads that kind of file is asked: the next stage before its body, the resume of a checkpoint, the models of
params.yaml, DVC, the doctor. Prints Markdown; exit code 1 if a fault stayed unnoticed.

- refused: an error that names the file, or a checkpoint that is skipped
- found: the doctor names it, as nobody reads this file or DVC trusts it
- seen as a change: DVC says that stages must run again, so results are those of the file as it now is; params.yaml is
  the user's, a changed digit in it is a changed wish, and `git diff` shows it
- same content: other bytes that say the same, a space, a quote, a letter of a comment; `git diff` shows it
- silent: none of these
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from dvc.exceptions import DvcException
from dvc.repo import Repo
from pydantic import BaseModel, create_model

from benchmarks.fault_project import OUTS, ROOT, SEED, STATE, write_project
from pipelines.check import params_models
from pipelines.doctor.lock_file import broken_lock, contradicted_lock
from pipelines.doctor.locked import LOCK_FILE, stages_in_lock
from pipelines.doctor.objects import corrupt_objects, corrupt_runs
from pipelines.doctor.outs import changed_outs
from pipelines.graph import stage_modules
from triplex.runs.checkpoint import newest
from triplex.runs.errors import InputError
from triplex.runs.manifest import check_inputs
from triplex.runs.params import PARAMS_FILE, Section, load_yaml, read_params

NUM_FLIPS, NUM_CUTS = 200, 4
REFUSED, FOUND, CHANGE, SAME, SILENT = "refused", "found", "seen as a change", "same content", "silent"


class Kind(NamedTuple):
    """A kind of file: where one lies, who reads it, and what that reader says of the file as it is now."""

    name: str
    path: Path
    reader: str
    asked: Callable[[], str]


def main() -> None:
    """Plant the faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=NUM_FLIPS, help="single-bit flips of each kind of file")
    options = parser.parse_args()
    with project() as kinds:
        found = {kind: outcomes(kind, options.flips) for kind in kinds}
    print(f"{options.flips} single-bit flips and {NUM_CUTS} truncations of each kind, seed {SEED}\n")
    print(table(found))
    sys.exit(1 if any(counts[SILENT] for counts in found.values()) else 0)


def table(found: dict[Kind, Counter[str]]) -> str:
    """Markdown: a row a kind."""
    words = (REFUSED, FOUND, CHANGE, SAME, SILENT)
    lines = [f"| file | read by | {' | '.join(words)} |", f"|---|---|{'---|' * len(words)}"]
    lines += [f"| {k.name} | {k.reader} | {' | '.join(str(n[word]) for word in words)} |" for k, n in found.items()]
    return "\n".join(lines)


def outcomes(kind: Kind, num_flips: int) -> Counter[str]:
    """How often each word was said, over the flips and the cuts."""
    whole, draws = kind.path.read_bytes(), random.Random(f"{SEED} {kind.name}")
    assert kind.asked() == SILENT, f"{kind.name}: refused before any fault"
    bits = draws.sample(range(8 * len(whole)), min(num_flips, 8 * len(whole)))
    faults = [flipped(whole, bit) for bit in bits]
    faults += [whole[:length] for length in (0, len(whole) // 3, 2 * len(whole) // 3, len(whole) - 1)]
    counts: Counter[str] = Counter()
    for fault in faults:
        with planted(kind.path, fault):
            counts[kind.asked()] += 1
    return counts


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with one bit turned."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@contextmanager
def planted(path: Path, fault: bytes) -> Iterator[None]:
    """The file with other bytes, its times and mode as before, as a failing disk leaves it."""
    whole, before = path.read_bytes(), path.stat()

    def put(data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)  # a checkpoint that is skipped is removed
        if path.exists():
            path.chmod(0o600)
        path.write_bytes(data)
        path.chmod(before.st_mode)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    put(fault)
    try:
        yield
    finally:
        put(whole)


@contextmanager
def project() -> Iterator[list[Kind]]:
    """The kinds of files of a small project, which is the current folder inside."""
    whole = whole_params()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        shutil.copy(ROOT / PARAMS_FILE, PARAMS_FILE)
        write_project()
        yield kinds_of(whole)


def kinds_of(whole: type[BaseModel]) -> list[Kind]:
    """Every kind of file in the current folder, with who reads it."""
    outs = {path: next(out for out in OUTS if path.startswith(out)) for path in (
        "models/base/model.safetensors", "models/base/tokenizer.json", "data/processed/sft.parquet",
        "data/baselines.parquet", "reports/metrics/ppo.tsv", "reports/eval.json",
    )}  # fmt: skip
    kinds = [Kind(path, Path(path), "the next stage", refused(out)) for path, out in outs.items()]
    manifest, checkpoint = Path("reports/manifests/make.json"), STATE / "step-000040"
    kinds.append(Kind("manifest", manifest, "the next stage", refused("models/base")))
    for name in ("state.pt", "manifest.json"):
        kinds.append(Kind(f"checkpoint: {name}", checkpoint / name, "resume", resumed(checkpoint)))
    kinds.append(Kind("params.yaml", PARAMS_FILE, "models, then DVC", parameters(whole)))
    kinds.append(Kind("dvc.lock", LOCK_FILE, "doctor, then DVC", lock()))
    kinds.append(Kind("reports/index.html", Path("reports/index.html"), "doctor", told(changed_outs)))
    stored = max((p for p in Path(".dvc/cache/files").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    kinds.append(Kind("cache object", stored, "doctor", told(corrupt_objects)))
    listing = next(Path(".dvc/cache/files").rglob("*.dir"))
    kinds.append(Kind("cache object: list of a folder", listing, "doctor", told(corrupt_objects)))
    record = next(p for p in sorted(Path(".dvc/cache/runs").rglob("*")) if p.is_file())
    kinds.append(Kind("record of a run", record, "doctor", recorded(record)))
    return kinds


def refused(dep: str) -> Callable[[], str]:
    """Asks what a stage does before its body."""

    def asked() -> str:
        try:
            check_inputs([dep])
        except InputError:
            return REFUSED
        return SILENT

    return asked


def resumed(checkpoint: Path) -> Callable[[], str]:
    """Asks what a run goes on from, in a copy: what is skipped is removed."""

    def asked() -> str:
        copy = shutil.copytree(STATE, Path("copied"))
        try:
            with open(os.devnull, "w") as quiet, redirect_stderr(quiet):
                found = newest(copy)
        finally:
            shutil.rmtree(copy)
        return SILENT if found is not None and found.name == checkpoint.name else REFUSED

    return asked


def parameters(whole: type[BaseModel]) -> Callable[[], str]:
    """Asks the models of all stages, then DVC."""
    before, original = load_yaml(PARAMS_FILE), PARAMS_FILE.read_bytes()

    def asked() -> str:
        try:
            read_params(whole)
        except InputError:
            return REFUSED
        return by_dvc(load_yaml(PARAMS_FILE) == before and PARAMS_FILE.read_bytes() != original)

    return asked


def lock() -> Callable[[], str]:
    """Asks the doctor, then DVC."""
    before, original = stages_in_lock(), LOCK_FILE.read_bytes()

    def asked() -> str:
        if any(True for check in (broken_lock, contradicted_lock) for _ in check()):
            return FOUND
        return by_dvc(stages_in_lock() == before and LOCK_FILE.read_bytes() != original)

    return asked


def recorded(path: Path) -> Callable[[], str]:
    """Asks the doctor of a record of a run."""
    before, original = load_yaml(path), path.read_bytes()

    def asked() -> str:
        if any(True for _ in corrupt_runs()):
            return FOUND
        return SAME if path.read_bytes() != original and load_yaml(path) == before else SILENT

    return asked


def by_dvc(same: bool) -> str:
    """What `dvc status` makes of the files; `same` if they say what they said before."""
    try:
        changed = Repo(".").status()
    except DvcException:
        return REFUSED
    return CHANGE if changed else SAME if same else SILENT


def told(check: Callable[[], Iterator[Any]]) -> Callable[[], str]:
    """Asks a check of the doctor."""
    return lambda: FOUND if any(True for _ in check()) else SILENT


def whole_params() -> type[BaseModel]:
    """All sections that the stages of this project read, as one model."""
    with chdir(ROOT):
        models = [
            model for name in sorted(set(stage_modules().values())) for model in params_models(import_module(name))
        ]
    fields: dict[str, Any] = {name: (f.annotation, f) for model in models for name, f in model.model_fields.items()}
    return create_model("Whole", __base__=Section, **fields)


if __name__ == "__main__":
    main()
