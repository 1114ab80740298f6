"""Memory and disk that the parameters ask for, estimated before anything runs, against what this machine has.

Training is what `pipelines/sizing.py` says; what scores beside it and a constant for Python and its libraries come on
top. Held against the peaks in docs/results.md and what `benchmarks/memory.py` measures: to plan with, no bound.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipelines import sizing
from pipelines.doctor.finding import Finding
from pipelines.sizing import FLOAT, Job, Shape, find_shape
from triplex.runs.params import PARAMS_FILE, load_yaml

GB = 1e9
RUNTIME = 0.8 * GB  # Python with torch, transformers and what these import
PLAIN_FILES = 0.05 * GB  # tables, metrics, plots, Prefect's database
_CGROUP = Path("/sys/fs/cgroup")
_BASE = Path("models/base")


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak of the most hungry stage, and where they go."""

    weights: float
    passes: float

    @property
    def total(self) -> float:
        """All of it, with the runtime."""
        return RUNTIME + self.weights + self.passes


def memory() -> Iterator[Finding]:
    """Memory: less available than the stages will take."""
    params, shape = load_yaml(PARAMS_FILE), _shape()
    if shape is None:
        return
    need, there = memory_estimate(params, shape), available_memory()
    if need.total > there:
        yield Finding(
            "too little memory", f"{there / GB:.1f} GB available",
            f"about {need.total / GB:.1f} GB needed: {RUNTIME / GB:.1f} for Python and its libraries, "
            f"{need.weights / GB:.1f} for weights, gradients and Adam, {need.passes / GB:.1f} for passes",
            "lower perplexity.max_tokens_per_batch and train.max_tokens_per_pass, or the model",
        )  # fmt: skip


def disk() -> Iterator[Finding]:
    """Disk: less free than a run will write."""
    shape = _shape()
    if shape is None:
        return
    need, free = disk_estimate(shape), shutil.disk_usage(".").free
    if need > free:
        yield Finding(
            "too little disk", f"{free / GB:.2f} GB free",
            f"about {need / GB:.2f} GB needed: five models in models/ and again in DVC's cache, three checkpoints "
            f"with Adam's state, {PLAIN_FILES / GB:.2f} for tables and reports",
            "dvc gc --workspace frees what earlier runs left in the cache",
        )  # fmt: skip


def told() -> str:
    """Both estimates beside what is there."""
    shape = _shape()
    if shape is None:
        return "memory and disk: not to be estimated before models/base is there"
    need, there = memory_estimate(load_yaml(PARAMS_FILE), shape).total, available_memory()
    space, free = disk_estimate(shape), shutil.disk_usage(".").free
    return (
        f"a run takes about {need / GB:.1f} of {there / GB:.1f} GB memory and {space / GB:.2f} of {free / GB:.2f} GB"
        " disk"
    )


def memory_estimate(params: dict[str, Any], shape: Shape) -> Estimate:
    """The peak of the train stages: what `sizing` has for passes full of responses, and the scorer and a classifier."""
    train = params["train"]
    job = Job(
        num_sequences=train["batch_size"], prompt_tokens=0, new_tokens=train["max_new_tokens"],
        tokens_per_pass=train["max_tokens_per_pass"],
    )  # fmt: skip
    found = sizing.memory(shape, job)
    stays = sum(found.stays.values())
    scoring = FLOAT * params["perplexity"]["max_tokens_per_batch"] * (4 * shape.hidden_size + 2 * shape.ffn_size)
    return Estimate(stays + 2 * FLOAT * shape.num_parameters, found.peak - stays + scoring)


def disk_estimate(shape: Shape) -> float:
    """Bytes of a whole run: base, SFT, reward and two policies twice, three checkpoints of weights and Adam."""
    weights = FLOAT * shape.num_parameters
    return 2 * 5 * weights + 3 * 3 * weights + PLAIN_FILES


def available_memory() -> float:
    """Bytes that can be had now: of the machine, or of the control group where that is less."""
    there = psutil.virtual_memory().available
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        there = min(there, int(text) - int(used.read_text()))
    return there


def scratch_shape(model: dict[str, Any]) -> Shape:
    """The shape of `base.model` with `kind: scratch`, which `build_causal_lm` builds."""
    hidden, heads, is_gpt2 = model["hidden_size"], model["num_heads"], model["architecture"] == "gpt2"
    return Shape(
        model["num_layers"], hidden, heads, heads, 4 * hidden if is_gpt2 else 8 * hidden // 3, model["vocab_size"],
        is_gated=not is_gpt2, is_tied=True, num_positions=model["max_positions"] if is_gpt2 else 0,
    )  # fmt: skip


def _shape() -> Shape | None:
    """The model of params.yaml; None for one of the hub that is not here yet."""
    model = load_yaml(PARAMS_FILE)["base"]["model"]
    if model["kind"] == "scratch":
        return scratch_shape(model)
    folder = Path(model["path"]).expanduser() if model["kind"] == "folder" else _BASE
    return find_shape(str(folder)) if (folder / "config.json").is_file() else None
