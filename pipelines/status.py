"""What `dvc status` and dvc.lock say of each stage, in a few words."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.graph import Stage
from pipelines.overrides import differences
from triplex.runs.checkpoint import last_step
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml
from triplex.runs.states import states

LOCK_FILE = Path("dvc.lock")


def changes(graph: dict[str, Stage]) -> dict[str, list[str]]:
    """For every stage what has changed since it last ran, nothing if it is up to date; InputError while one runs."""
    done = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True)
    if done.returncode:
        if running := re.search(r"is busy.*?\(PID (\d+)\)", done.stderr, re.DOTALL):
            what = f"a stage is running (process {running[1]}), so what has changed is not known yet"
            raise InputError("status", what, "wait for its end, or see its progress where it was started")
        raise InputError("dvc status", done.stderr.strip(), "see what DVC says, or `python -m pipelines doctor`")
    found = json.loads(done.stdout)
    locked = load_yaml(LOCK_FILE).get("stages", {}) if LOCK_FILE.is_file() else {}
    gone = {out for entries in found.values() for entry in entries for out in _deleted(entry)}
    words: dict[str, list[str]] = {}
    for name, stage in graph.items():
        words[name] = _stopped(name)
        if name in locked:
            told = gone if words[name] else gone - set(stage.outs)  # by what it says of this stage, or of one before it
            params = locked[name].get("params", {})
            words[name] += [text for entry in found.get(name, []) for text in _words(entry, params, told)]
        else:
            words[name] = words[name] or ["never run"]
    return words


def following(graph: dict[str, Stage], changed: dict[str, list[str]]) -> dict[str, list[str]]:
    """For every stage that is up to date the changed ones that it needs, directly or not: it runs if they give new
    bytes."""
    causes: dict[str, set[str]] = {}
    for name, stage in graph.items():  # each after those that it needs
        causes[name] = set().union(*({needed} if changed[needed] else causes[needed] for needed in stage.needs))
    return {name: [] if changed[name] else [each for each in graph if each in causes[name]] for name in graph}


def shortened(changed: list[str], most: int = 4) -> str:
    """The first few changes and how many more there are."""
    rest = len(changed) - most
    return ", ".join(changed[:most]) + (f" and {rest} more" if rest > 0 else "")


def _stopped(name: str) -> list[str]:
    """Where a run of the stage that was stopped goes on, nothing if none was."""
    if not states(name):
        return []
    from pipelines.resume import state_of  # which imports torch

    with suppress(InputError):
        if (step := last_step(state_of(name))) is not None:
            return [f"stopped, goes on from step {step}"]
    return ["stopped, starts anew"]


def _words(entry: str | dict[str, dict[str, Any]], params: dict[str, dict[str, Any]], told: set[str]) -> list[str]:
    """One entry of a stage: `changed command`, or what changed among its deps, outs and `params`, as dvc.lock has them:
    `train.kl_coef: 0.05 -> 0.3`. Not that something is deleted where this is `told` otherwise."""
    if isinstance(entry, str):
        return [entry.removeprefix("changed ")]
    texts: list[str] = []
    for paths in entry.values():
        for path, what in paths.items():
            if isinstance(what, dict):  # sections of a file of parameters
                now = load_yaml(Path(path))
                old, new = ({key: of[key] for key in what if key in of} for of in (params[path], now))
                texts += map(str, differences(old, new))
            elif what != "deleted" or path not in told:
                texts.append(f"{path} {what}")
    return texts


def _deleted(entry: str | dict[str, dict[str, Any]]) -> list[str]:
    """The outs of a stage that are not there, as an entry of it tells."""
    outs = {} if isinstance(entry, str) else entry.get("changed outs", {})
    return [path for path, what in outs.items() if what == "deleted"]
