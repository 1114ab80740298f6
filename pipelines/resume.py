"""What a stage that was stopped would go on from."""

import importlib
from pathlib import Path
from typing import Any

from pipelines.check import params_models
from pipelines.graph import stage_modules
from triplex.runs.manifest import check_inputs, declarations, environment
from triplex.runs.params import read_params
from triplex.runs.states import state_path


def state_of(name: str) -> Path:
    """The state folder of the stage's code, inputs and parameters of now; InputError if an input is not what its stage
    wrote."""
    identity = {"stage": name, "params": _params(name), "inputs": check_inputs(declarations()[name]["deps"])}
    return state_path(name, {**identity, "environment": environment()})


def _params(name: str) -> dict[str, Any]:
    base, _, item = name.partition("@")
    module = importlib.import_module(stage_modules()[base])
    model = module.PARAMS[item] if item else params_models(module)[0]
    return read_params(model).model_dump(mode="json")
