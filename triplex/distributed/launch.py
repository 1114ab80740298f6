"""A stage's training in one process or in several: `work` of the stage's module, called by each worker.

A stage calls `run_workers` with what its `work` needs; JSON, since a worker may be another process on another machine.
Workers share the project's folder with the stage, by a network drive where there are several machines.
"""

from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from triplex.distributed.strategy import Strategy
from triplex.distributed.worker import ERROR, FAILURES, STOP, told
from triplex.runs import interrupt
from triplex.runs.errors import InputError
from triplex.runs.files import write_text
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run

_LOOK_SECONDS = 0.2


def check_installed(compute: ComputeConfig) -> None:
    """InputError with the line that installs what `compute` asks for."""
    wanted = {
        "ray": (compute.executor == "ray", "compute.executor = ray"),
        "deepspeed": (
            compute.deepspeed.zero_stage > 0,
            f"compute.deepspeed.zero_stage = {compute.deepspeed.zero_stage}",
        ),
    }
    for package, (is_wanted, where) in wanted.items():
        if is_wanted and find_spec(package) is None:
            raise InputError(
                f"params.yaml: {where}", f"{package} is not installed", f"pip install 'triplex[{package}]'"
            )


def run_workers(compute: ComputeConfig, module: str, given: dict[str, Any], run: Run) -> None:
    """Call `module`.work(given, run, strategy) on each worker; returns when all are done.

    InputError as a worker has raised it, or where workers died more than `max_failures` times; `Interrupted` when this
    process was asked to end, after the workers have written a checkpoint.
    """
    if compute.executor == "local":
        import_module(module).work(given, run, Strategy())
        return
    check_installed(compute)
    start: Any
    if compute.executor == "ray":
        from triplex.distributed.ray import start
    else:
        from triplex.distributed.torchrun import start
    for name in (STOP, ERROR, FAILURES):
        (run.state / name).unlink(missing_ok=True)
    task = {
        "module": module, "given": given, "run": {**asdict(run), "state": str(run.state.resolve())},
        "compute": compute.model_dump(), "folder": str(Path.cwd()),
    }  # fmt: skip
    with interrupt.deferred(), start(compute, task) as job:
        while not job.wait(_LOOK_SECONDS):
            if asked := interrupt.requested():
                write_text(run.state / STOP, str(int(asked)))
        if error := told(run.state / ERROR):
            raise error
        if not interrupt.requested():
            job.check()
