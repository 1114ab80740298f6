"""What a run is asked to do, written and checked before anything starts."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines import overrides
from pipelines.check import check_params
from pipelines.dvc_lock import refuse_while_written
from pipelines.graph import Stage, read_graph, select
from triplex.runs.errors import BusyError

_LOCK = Path(".triplex/locks/flow.lock")


def prepare(stages: list[str], only: bool, params: dict[str, Any]) -> dict[str, Stage]:
    """The stages to run, in order, after writing `params` into params.yaml and checking the whole of it.

    InputError for an unknown stage, key or value, BusyError while DVC runs a stage; params.yaml is then as it was.
    """
    plan = select(read_graph(), stages, only)
    refuse_while_written()
    overrides.apply(params)
    check_params()
    return plan


@contextmanager
def one_flow_at_a_time() -> Iterator[None]:
    """Hold the project's flow lock, or BusyError: a second flow would change params.yaml under the first."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError("flow", f"already running (process {file.read()})", "wait for it, or end it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
