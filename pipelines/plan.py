"""What a run is asked to do, written and checked before anything starts."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines import overrides
from pipelines.check import check_params
from pipelines.graph import Stage, read_graph, select
from triplex.runs.errors import InputError

PARALLEL_STAGES = "TRIPLEX_PARALLEL_STAGES"
_LOCK = Path(".triplex/locks/flow.lock")


def prepare(stages: list[str], only: bool, params: dict[str, Any]) -> dict[str, Stage]:
    """The stages to run, in order, after writing `params` into params.yaml and checking the whole of it.

    InputError for an unknown stage, key or value; params.yaml is then as it was.
    """
    parallel_stages()
    plan = select(read_graph(), stages, only)
    overrides.apply(params)
    check_params()
    return plan


def parallel_stages() -> int:
    """How many stages run side by side: the environment's TRIPLEX_PARALLEL_STAGES, else 2; it changes no result."""
    value = os.environ.get(PARALLEL_STAGES, "2")
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"{PARALLEL_STAGES}={value}", "not a number of stages", "set 1 or more, or unset it")
    return int(value)


@contextmanager
def one_flow_at_a_time() -> Iterator[None]:
    """Hold the project's flow lock, or InputError: a second flow would change params.yaml under the first."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError("flow", f"already running (process {file.read()})", "wait for it, or end it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
