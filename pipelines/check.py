"""The whole of params.yaml against the models of the stages that read it, before any of them starts."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from pipelines.graph import stage_modules
from triplex.models.sources import FolderConfig, model_folder
from triplex.runs.errors import InputError
from triplex.runs.params import PARAMS_FILE, load_yaml, validated

#: what must not be more than the positions of a model that is built here
_TOKENS = (
    "base.block_size", "sft.block_size", "reward.preference.model.max_tokens", "reward.calibration.max_new_tokens",
    "train.max_new_tokens", "evaluate.max_new_tokens",
)  # fmt: skip


def check_params(path: Path = PARAMS_FILE) -> None:
    """Read every section with its owner's models, and call what a stage has as `check`; InputError for a mistake.

    Folders of models are hashed, and the sections held against each other. More threads than CPUs are warned of: the
    bytes do not depend on the CPUs.
    """
    values = load_yaml(path)
    for name in sorted(set(stage_modules().values())):
        module = importlib.import_module(name)
        for model in params_models(module, path):
            params = validated(model, values, path)
            if check := getattr(module, "check", None):
                check(params)
            for folder in _folders(params):
                model_folder(folder)
    _check_positions(path, values)
    threads, cpus = _value(values, "compute.threads") or 1, os.cpu_count() or 1
    if threads > cpus:
        # without the path: it may be that of a file that becomes params.yaml
        print(f"warning: compute.threads = {threads}, on {cpus} CPUs: the same bytes, slower", file=sys.stderr)


def params_models(module: ModuleType, path: Path = PARAMS_FILE) -> list[type[BaseModel]]:
    """What a stage reads of params.yaml: its `Params`, or the `models` of a stage that runs once an item."""
    return module.models(path) if hasattr(module, "models") else [module.Params]


def _folders(section: Any) -> Iterator[FolderConfig]:
    """The model folders that a section names."""
    if isinstance(section, FolderConfig):
        yield section
    elif isinstance(section, BaseModel):
        for _, value in section:
            yield from _folders(value)


def _check_positions(path: Path, values: dict[str, Any]) -> None:
    positions = _value(values, "base.model.max_positions")  # of `kind: scratch` alone
    for key in _TOKENS:
        size = _value(values, key)
        if positions is not None and size is not None and size > positions:
            what = f"{key} = {size} is above base.model.max_positions = {positions}"
            raise InputError(path, what, "lower the one or raise the other")


def _value(values: Any, key: str) -> Any:
    """The value of a dotted key, None where the file has none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
