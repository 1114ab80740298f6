"""`python -m pipelines env`: the machine, the versions and the commit, as an issue asks for them."""

import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

EXAMPLES = """
* `python -m pipelines env`: to be pasted into an issue
* `python -m pipelines env --json | jq -r .commit`
"""


_EXTRAS = ("ray", "deepspeed", "unsloth")


def env(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Tell what a result may depend on beside the data: commit, machine, devices, threads, versions.

    Reads and starts nothing else, and names no user, host or path. Exit code 0; 2: params.yaml cannot be read.
    """
    found = facts()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        told = [f"{key} {each}" for key, each in value.items()] if isinstance(value, dict) else value
        told = ", ".join(told) or "none" if isinstance(told, list) else told
        typer.echo(f"{name + ':':<15}{'none' if told is None else told}")


def facts() -> dict[str, Any]:
    """By name; memory in GiB, `misfits` what the doctor says of packages, `commit` None outside of git."""
    import psutil

    from pipelines.doctor.packages import wrong_versions
    from triplex.runs.manifest import environment
    from triplex.runs.params import PARAMS_FILE, load_yaml

    compute = load_yaml(PARAMS_FILE).get("compute", {})
    return {
        "triplex": version("triplex"),
        "commit": _git("rev-parse", "HEAD"),
        "changed files": len((_git("status", "--porcelain") or "").splitlines()),
        **environment(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "compute": {name: value for name, value in compute.items() if not isinstance(value, dict)},
        "tools": {name: _version(name) for name in ("dvc", "prefect", "trl", *_EXTRAS)},
        "misfits": [f"{found.where}: {found.meaning}" for found in wrong_versions()],
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # an extra
        return "not installed"


def _git(*arguments: str) -> str | None:
    """What git prints, None where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    return None if done.returncode else done.stdout.strip()
