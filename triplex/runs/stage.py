"""The frame around a stage: one at a time, dies with its parent, errors in words, a manifest at the end."""

import ctypes
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from triplex.runs.allocator import keep_freed_memory
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree, write_json
from triplex.runs.params import PARAMS_FILE, load_yaml
from triplex.runs.seeds import derive_seed, seed_everything

EXIT_BUSY = 75
MANIFESTS = Path("reports/manifests")
SCRATCH = Path(".triplex")
_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy", "accelerate", "peft", "safetensors")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Run:
    """What a stage gets: its name, its seed and a scratch folder that belongs to exactly these inputs."""

    name: str
    seed: int
    state: Path


@contextmanager
def run_stage(name: str, params: BaseModel) -> Iterator[Run]:
    """Run the body as stage `name` of dvc.yaml; `params` holds `seed` and `compute`.

    The state folder is keyed by the hash of the stage's code, inputs and parameters, so a changed configuration
    never resumes an old state. It lies outside the stage's outs, which DVC deletes, and goes when the body succeeds.
    """
    values = params.model_dump(mode="json")
    with _lock(name):
        _die_with_parent()
        declared = declaration(name)
        identity = {"stage": name, "params": values, "inputs": _hashes(declared["deps"])}
        key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        state = SCRATCH / "state" / f"{name.replace('@', '-')}-{key}"
        state.mkdir(parents=True, exist_ok=True)
        seed = derive_seed(values["seed"], name)
        keep_freed_memory()
        seed_everything(seed, values["compute"]["threads"])
        yield Run(name=name, seed=seed, state=state)
        outputs = _hashes([out for out in declared["outs"] if not out.startswith(str(MANIFESTS))])
        manifest = {**identity, "outputs": outputs, "environment": environment()}
        write_json(MANIFESTS / f"{name.replace('@', '-')}.json", manifest)
        shutil.rmtree(state)


def declaration(name: str, path: Path = Path("dvc.yaml")) -> dict[str, list[str]]:
    """`deps` and `outs` (metrics and plots with them) of one stage of dvc.yaml, a `matrix` stage as NAME@VALUE."""
    base, _, item = name.partition("@")
    stage, values = load_yaml(path)["stages"][base], load_yaml(path.with_name(PARAMS_FILE.name))

    def paths(section: str) -> list[str]:
        entries = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in stage.get(section, [])]
        named = [re.sub(r"\$\{item\.\w+\}", item, entry) for entry in entries]
        return [re.sub(r"\$\{(\w+)\[(\d+)\]\}", lambda m: str(values[m[1]][int(m[2])]), entry) for entry in named]

    return {"deps": paths("deps"), "outs": paths("outs") + paths("metrics") + paths("plots")}


def environment() -> dict[str, Any]:
    """What the bytes may depend on beside the inputs: interpreter, processor family, package versions."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def _hashes(paths: list[str]) -> dict[str, str]:
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise InputError(missing[0], "missing", "run the stage that writes it: `dvc repro` runs what is needed")
    return {path: sha256_tree(path) for path in paths}


@contextmanager
def _lock(name: str) -> Iterator[None]:
    folder = SCRATCH / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(
                f"error: stage {name}: already running (process {file.read().strip()}); wait for it, or end it",
                file=sys.stderr,
            )
            sys.exit(EXIT_BUSY)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent (DVC) is gone, so that no orphan writes beside a second run."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
