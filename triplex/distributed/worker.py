"""One of the processes that share a training; torchrun calls `python -m triplex.distributed.worker TASK.json`."""

import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.distributed.strategy import Replicated, Strategy
from triplex.runs import interrupt
from triplex.runs.allocator import keep_freed_memory
from triplex.runs.errors import InputError
from triplex.runs.files import write_text
from triplex.runs.interrupt import Interrupted
from triplex.runs.params import ComputeConfig
from triplex.runs.seeds import seed_everything
from triplex.runs.stage import Run

#: in the run's state folder: from the stage to its workers, and back; what workers died of
STOP, ERROR, FAILURES = "stop", "error.json", "failures.log"


def work(task: dict[str, Any]) -> None:
    """Do one worker's part, in a process that is in torch.distributed's group.

    An InputError goes to the stage through a file and ends this worker; started again, it does nothing. The traceback
    of any other error is kept in a file, too. Where the stage was asked to end it ends well, after a checkpoint.
    """
    run = Run(task["run"]["name"], task["run"]["seed"], Path(task["run"]["state"]))
    compute = ComputeConfig.model_validate(task["compute"])
    if (run.state / ERROR).is_file():
        return
    interrupt.listen(run.state / STOP)
    keep_freed_memory()
    seed_everything(run.seed, compute.threads)
    try:
        import_module(task["module"]).work(task["given"], run, make_strategy(compute))
    except Interrupted:
        return
    except InputError as error:
        tell(run.state / ERROR, error)
        raise
    except Exception:
        with (run.state / FAILURES).open("a", encoding="utf-8") as file:
            file.write(f"worker {distributed.get_rank()}\n{traceback.format_exc()}\n")
        raise


def tell(path: Path, error: InputError) -> None:
    """Write down what a worker has found wrong: between processes its type would be lost."""
    write_text(path, json.dumps([error.where, error.what, error.remedy]))


def told(path: Path) -> InputError | None:
    """What a worker has written there, if any."""
    return InputError(*json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def make_strategy(compute: ComputeConfig) -> Strategy:
    """How this worker and the others of the group hold the model."""
    zero = compute.deepspeed
    if zero.zero_stage == 0:
        return Replicated()
    from triplex.distributed.deepspeed import Sharded

    return Sharded(zero.zero_stage, zero.offload)


def backend() -> str:
    """Of torch.distributed on this machine."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def join() -> None:
    """torchrun's group; its store outlives the workers, and those of another start must not find dead ones there."""
    told = os.environ
    if torch.cuda.is_available():
        torch.cuda.set_device(int(told["LOCAL_RANK"]))  # as Ray Train does
    store = distributed.TCPStore(told["MASTER_ADDR"], int(told["MASTER_PORT"]), is_master=False)
    distributed.init_process_group(
        backend(), store=distributed.PrefixStore(f"start-{told['TORCHELASTIC_RESTART_COUNT']}", store),
        rank=int(told["RANK"]), world_size=int(told["WORLD_SIZE"]),
    )  # fmt: skip


if __name__ == "__main__":
    join()
    try:
        work(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception:  # of which `work` has kept what the stage tells
        sys.exit(1)
    distributed.destroy_process_group()
