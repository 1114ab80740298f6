"""The whole of params.yaml against the models of the stages that read it, before any of them starts."""

import importlib
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel

from pipelines.graph import stage_modules
from triplex.runs.params import PARAMS_FILE, load_yaml, read_params


def check_params(path: Path = PARAMS_FILE) -> None:
    """Read every section with its owner's models, and call what a stage has as `check`; InputError for a mistake."""
    load_yaml(path)
    for name in sorted(set(stage_modules().values())):
        module = importlib.import_module(name)
        for model in params_models(module):
            params = read_params(model, path)
            if check := getattr(module, "check", None):
                check(params)


def params_models(module: ModuleType) -> list[type[BaseModel]]:
    """The models of params.yaml that a stage's module defines: `Params`, or one for each item of a matrix."""
    defined = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, BaseModel)]
    return [model for model in defined if model.__module__ == module.__name__ and model.__name__.endswith("Params")]
