"""Workers on a Ray cluster, started and started again by Ray Train."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from triplex.distributed.ray_cluster import START_SECONDS, cluster, import_ray, set_policy, worker_resources
from triplex.distributed.torchrun import died, lost
from triplex.runs.params import ComputeConfig


class Job:
    """A training on the cluster, in a thread of its own."""

    def __init__(self, trainer: Any, compute: ComputeConfig, state: str) -> None:
        self._compute, self._state = compute, state
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self._thread.start()

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except Exception as error:
            self._failure = error

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, within that time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def check(self) -> None:
        """InputError if it has failed."""
        from ray.exceptions import RayError
        from ray.train import ControllerError

        if isinstance(self._failure, ControllerError):
            waited = START_SECONDS * (self._compute.max_failures + 1)
            what = f"the cluster had no room for {self._compute.num_workers} workers, waited for during {waited} s"
            raise lost("params.yaml: compute.num_workers", what, self._state) from self._failure
        if isinstance(self._failure, RayError):  # workers' ends come as errors of Ray Train
            what = f"the process that looks after the workers was lost: {' '.join(str(self._failure).split())}"
            raise lost("Ray's cluster", what, self._state) from self._failure
        if self._failure is not None:
            raise died(self._compute, self._state) from self._failure


@contextmanager
def start(compute: ComputeConfig, task: dict[str, Any]) -> Iterator[Job]:
    """As many workers as `compute` says; when one dies all start anew from the last checkpoint."""
    ray = import_ray()
    with cluster(ray, compute, part="ray.train.torch"):
        train, needs = ray.train, worker_resources(ray, compute)
        yield Job(
            train.torch.TorchTrainer(
                serve,
                train_loop_config=task,
                scaling_config=train.ScalingConfig(
                    num_workers=compute.num_workers, use_gpu="GPU" in needs, resources_per_worker=needs
                ),
                run_config=train.RunConfig(
                    name=f"{task['run']['name'].replace('@', '-')}-{uuid4().hex[:8]}",  # an old name would go on there
                    logging_config=train.LoggingConfig(log_level="CRITICAL"),  # the stage tells what went wrong, once
                    storage_path=str(Path(task["run"]["state"]) / "ray"),
                    failure_config=train.FailureConfig(
                        max_failures=compute.max_failures,
                        controller_failure_limit=compute.max_failures,  # starts that waited in vain for a node
                    ),
                ),
                torch_config=train.torch.TorchConfig(),  # nccl where workers have GPUs, else gloo
            ),
            compute,
            task["run"]["state"],
        )


def serve(task: dict[str, Any]) -> None:
    """What each worker runs; Ray has made torch.distributed's group."""
    os.chdir(task["folder"])
    set_policy("OTHER")
    import_module("triplex.distributed.worker").work(task)
