"""Memory and disk that the parameters ask for, estimated before anything runs, against what this machine has.

The estimate counts what grows with the parameters and adds a constant for Python and its libraries. It is held against
the peaks in docs/results.md and the growth that `benchmarks/memory.py` measures: something to plan with, no bound.
"""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipelines.doctor.finding import Finding
from triplex.runs.params import PARAMS_FILE, load_yaml

GB = 1e9
RUNTIME = 0.8 * GB  # Python with torch, transformers and what these import
PLAIN_FILES = 0.05 * GB  # tables, metrics, plots, Prefect's database
_FLOAT = 4
_CGROUP = Path("/sys/fs/cgroup")
_BASE = Path("models/base")


@dataclass(frozen=True)
class Shape:
    """What a model's memory depends on."""

    num_parameters: int
    vocab_size: int
    hidden_size: int
    num_layers: int


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak of the most hungry stage, and where they go."""

    weights: float
    logits: float
    activations: float

    @property
    def total(self) -> float:
        """All of it, with the runtime."""
        return RUNTIME + self.weights + self.logits + self.activations


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
            f"{need.weights / GB:.1f} for weights, gradients and Adam, {need.logits / GB:.1f} for logits, "
            f"{need.activations / GB:.1f} for activations",
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
    """The peak of the train stages: the policy with gradients and Adam, its reference, the scorer, the classifier.

    Logits: three times those of a pass (logits, log-softmax, gradient); scoring never holds them whole. Activations:
    per token 12 vectors of the hidden size in each layer for the backward pass, 16 in one layer for scoring.
    """
    train, score = params["train"]["max_tokens_per_pass"], params["perplexity"]["max_tokens_per_batch"]
    weights = _FLOAT * shape.num_parameters * (1 + 1 + 2 + 1 + 1 + 1)
    logits = _FLOAT * shape.vocab_size * 3 * train
    activations = _FLOAT * shape.hidden_size * (12 * shape.num_layers * train + 16 * score)
    return Estimate(weights, logits, activations)


def disk_estimate(shape: Shape) -> float:
    """Bytes of a whole run: base, SFT, reward and two policies twice, three checkpoints of weights and Adam."""
    weights = _FLOAT * shape.num_parameters
    return 2 * 5 * weights + 3 * 3 * weights + PLAIN_FILES


def available_memory() -> float:
    """Bytes that can be had now: of the machine, or of the control group where that is less."""
    there = psutil.virtual_memory().available
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        there = min(there, int(text) - int(used.read_text()))
    return there


def scratch_shape(model: dict[str, Any]) -> Shape:
    """The shape of `base.model` with `kind: scratch`: embeddings, and 12 squares of the hidden size a layer."""
    hidden, layers, vocab = model["hidden_size"], model["num_layers"], model["vocab_size"]
    return Shape((vocab + model["max_positions"]) * hidden + 12 * layers * hidden**2, vocab, hidden, layers)


def folder_shape(folder: Path) -> Shape:
    """The shape of a Hugging Face folder of safetensors, from its config and the headers of its weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    hidden, layers = (config.get(new, config.get(old)) for new, old in _NAMES)
    return Shape(sum(map(_parameters, folder.glob("*.safetensors"))), config["vocab_size"], hidden, layers)


_NAMES = (("hidden_size", "n_embd"), ("num_hidden_layers", "n_layer"))


def _parameters(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _shape() -> Shape | None:
    """The model of params.yaml; None for one of the hub that is not here yet."""
    model = load_yaml(PARAMS_FILE)["base"]["model"]
    if model["kind"] == "scratch":
        return scratch_shape(model)
    folder = Path(model["path"]).expanduser() if model["kind"] == "folder" else _BASE
    return folder_shape(folder) if (folder / "config.json").is_file() else None
