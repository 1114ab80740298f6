"""A run that lost its machines, gone on with by another number of workers, where its user asks for that.

The bytes are then those of no undisturbed run, so it is asked for by name, and the manifest says so.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from triplex.runs.errors import InputError
from triplex.runs.files import write_text

GO_ON_FROM = "TRIPLEX_GO_ON_FROM"
_IDENTITY = "identity.json"  # in each state folder: what it belongs to
_FREE = {"executor", "num_workers", "threads", "deepspeed", "max_failures"}  # of compute


def write_identity(state: Path, identity: dict[str, Any]) -> None:
    """Say what the state folder belongs to."""
    write_text(state / _IDENTITY, json.dumps(identity, sort_keys=True))


def go_on(state: Path, identity: dict[str, Any]) -> dict[str, str]:
    """Copy the state folder that TRIPLEX_GO_ON_FROM names into the new `state` of the same stage.

    Returns what the manifest says of it, nothing where the variable is not set or names a state of another stage.
    InputError for a folder that is not there, and for one that more than the workers sets apart from this run.
    """
    named = os.environ.get(GO_ON_FROM)
    if not named:
        return {}
    source, where = Path(named), f"environment: {GO_ON_FROM} = {named}"
    if not (source / _IDENTITY).is_file():
        remedy = "name a folder of .triplex/state, as the message of the run that ended has it, or unset it"
        raise InputError(where, "no state of a stage", remedy)
    there = json.loads((source / _IDENTITY).read_text(encoding="utf-8"))
    if there["stage"] != identity["stage"]:
        return {}
    for place, one, other in _differences(there, identity):
        what = f"{place} was {one}, is {other}: only the workers may be others"
        raise InputError(where, what, "put it back, or unset the variable to start anew")
    if not any(state.glob("step-*")) and source.resolve() != state.resolve():
        shutil.copytree(source, state, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_IDENTITY))
    return {"went_on_from": source.name}


def _differences(one: Any, other: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """(place, value, other value) of what may not differ."""
    if place in {f"params.compute.{name}" for name in _FREE}:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [
            found for key in keys
            for found in _differences(one.get(key), other.get(key), f"{place}.{key}" if place else key)
        ]  # fmt: skip
    return [] if one == other else [(place, one, other)]
