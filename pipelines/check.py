"""The whole of params.yaml against the models of the stages that read it, before any of them starts."""

import importlib
from pathlib import Path

from pipelines.graph import stage_modules
from triplex.runs.params import PARAMS_FILE, load_yaml, read_params


def check_params(path: Path = PARAMS_FILE) -> None:
    """Read every section with its owner's model, `Params` of each stage's module; InputError for a mistake."""
    load_yaml(path)
    for module in sorted(set(stage_modules().values())):
        read_params(importlib.import_module(module).Params, path)
