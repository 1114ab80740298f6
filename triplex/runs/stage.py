"""The frame around a stage: one at a time, from verified inputs, in a state of its own, a manifest at the end."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel

from triplex.runs import history, interrupt, lock, storage
from triplex.runs.allocator import keep_freed_memory
from triplex.runs.continuation import go_on, write_identity
from triplex.runs.files import remove_folder, told_when_full
from triplex.runs.interrupt import Interrupted
from triplex.runs.manifest import check_inputs, declarations, environment, write_manifest
from triplex.runs.seeds import derive_seed, seed_everything
from triplex.runs.states import STATES, half_removed, state_path, states


@dataclass(frozen=True)
class Run:
    """What a stage gets: its name, its seed and a scratch folder that belongs to exactly these inputs."""

    name: str
    seed: int
    state: Path


@contextmanager
def run_stage(name: str, params: BaseModel) -> Iterator[Run]:
    """Run the body as stage `name` of dvc.yaml; `params` holds `seed` and `compute`.

    The state folder is keyed by the hash of the stage's code, inputs, parameters and environment, so a change of any
    of them never resumes an old state. It lies outside the stage's outs, which are removed before the body starts:
    DVC does so too, but a first run that was still ending may have written there since. States of the stage go when
    the body succeeds, those of other keys too: whoever finishes has settled on this one, and the disk is not theirs.
    """
    values, started = params.model_dump(mode="json"), time.monotonic()
    interrupt.install()
    with lock.hold(name), _told_how_it_stopped(name):
        declared = declarations()[name]
        identity = {"stage": name, "params": values, "inputs": check_inputs(declared["deps"])}
        whole = {**identity, "environment": environment()}
        state = state_path(name, whole)
        state.mkdir(parents=True, exist_ok=True)
        write_identity(state, whole)
        identity |= go_on(state, whole)
        storage.check_storage(state)
        STATES.parent.chmod(0o700)  # DVC makes it, for its site cache, and lets everybody write there
        for left in [*half_removed(name), *map(Path, declared["outs"])]:
            _remove(left)
        seed = derive_seed(values["seed"], name)
        if not torch.cuda.is_available():  # of which DeepSpeed, where it is installed, would warn in every stage
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        keep_freed_memory()
        seed_everything(seed, values["compute"]["threads"])
        with told_when_full(state), _memory_in_words():
            yield Run(name=name, seed=seed, state=state)
        write_manifest(identity, declared["outs"])
        history.keep(name, time.monotonic() - started)
        for old in states(name):
            storage.remove(old)
            remove_folder(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _told_how_it_stopped(name: str) -> Iterator[None]:
    try:
        yield
    except Interrupted:
        progress = lock.last_beat().progress().removeprefix(f"{name} ")
        how = f"stopped at {progress}, state kept" if progress else "stopped before its first step"
        print(f"stage {name}: {how}; run again to go on", file=sys.stderr, flush=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # a second one would only stop what libraries do at the end
        raise


@contextmanager
def _memory_in_words() -> Iterator[None]:
    """torch has errors of its own for memory that is used up: MemoryError in their place."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
