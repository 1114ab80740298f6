"""Workers of one machine, started and started again by torchrun."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from triplex.distributed.worker import FAILURES
from triplex.runs.continuation import GO_ON_FROM
from triplex.runs.errors import InputError
from triplex.runs.files import write_text
from triplex.runs.params import ComputeConfig

_TASK = "task.json"


class Job:
    """The process of torchrun."""

    def __init__(self, process: "subprocess.Popen[bytes]", compute: ComputeConfig, state: str) -> None:
        self._process, self._compute, self._state = process, compute, state

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, within that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def check(self) -> None:
        """InputError if it has failed."""
        if self._process.returncode:
            raise died(self._compute, self._state)


def died(compute: ComputeConfig, state: str) -> InputError:
    """What to say where workers were lost too often; `state` is the run's folder."""
    return lost("params.yaml: compute.max_failures", f"workers died more than {compute.max_failures} times", state)


def lost(where: str, what: str, state: str) -> InputError:
    """What to say where a training cannot go on with the workers that it began with."""
    failures = Path(state) / FAILURES
    why = f"look above and in {os.path.relpath(failures)}" if failures.is_file() else "look above"
    remedy = (
        f"{why} for why, then start the stage again; with fewer workers, in other last bits, under"
        f" {GO_ON_FROM}={os.path.relpath(state)}"
    )
    return InputError(where, f"{what}; the last checkpoint is kept", remedy)


@contextmanager
def start(compute: ComputeConfig, task: dict[str, Any]) -> Iterator[Job]:
    """As many workers as `compute` says; when one dies all are ended and start from the last checkpoint."""
    path = Path(task["run"]["state"]) / _TASK
    write_text(path, json.dumps(task))
    command = [
        sys.executable, "-m", "triplex.distributed.torchrun", "--standalone", "--local-addr=127.0.0.1",
        f"--nproc-per-node={compute.num_workers}", f"--max-restarts={compute.max_failures}",
        "--module", "triplex.distributed.worker", str(path),
    ]  # fmt: skip
    folders = os.pathsep.join(filter(None, [task["folder"], os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": str(compute.threads), "PYTHONPATH": folders}
    process = subprocess.Popen(command, env=environment)
    try:
        yield Job(process, compute, task["run"]["state"])
    finally:
        process.terminate()  # it then ends the workers
        process.wait()


if __name__ == "__main__":
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main()
    except ChildFailedError:  # which the stage tells
        sys.exit(1)
