"""Workers on a Ray cluster: that of RAY_ADDRESS, else one of this stage's own, which ends with it."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

from triplex.distributed.torchrun import died
from triplex.runs.errors import InputError
from triplex.runs.params import ComputeConfig

ADDRESS, TOKEN = "RAY_ADDRESS", "RAY_AUTH_TOKEN"
_REACH_SECONDS = 10.0
_WHERE = "params.yaml: compute.num_workers"


def import_ray() -> Any:
    """The package, with its telemetry off and its authentication on."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_DEDUP_LOGS": "0",
        "RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0", "RAY_prestart_worker_first_driver": "0",  # in an environment not the workers'
        "RAY_worker_niceness": "0",  # by Ray's 15 whatever else runs on the machine comes before the training
    }  # fmt: skip
    if ADDRESS not in os.environ:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # by which Ray, on any system, stays on loopback
    import ray
    import ray.data
    import ray.train.torch

    return ray


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
        if self._failure is not None:
            raise died(self._compute, self._state) from self._failure


@contextmanager
def start(compute: ComputeConfig, task: dict[str, Any]) -> Iterator[Job]:
    """As many workers as `compute` says; when one dies all start anew from the last checkpoint."""
    ray = import_ray()
    with cluster(ray, compute):
        train = ray.train
        yield Job(
            train.torch.TorchTrainer(
                serve,
                train_loop_config=task,
                scaling_config=train.ScalingConfig(
                    num_workers=compute.num_workers, resources_per_worker={"CPU": compute.threads}
                ),
                run_config=train.RunConfig(
                    name=f"{task['run']['name'].replace('@', '-')}-{uuid4().hex[:8]}",  # an old name would go on there
                    storage_path=str(Path(task["run"]["state"]) / "ray"),
                    failure_config=train.FailureConfig(max_failures=compute.max_failures),
                ),
                torch_config=train.torch.TorchConfig(backend="gloo"),
            ),
            compute,
            task["run"]["state"],
        )


def serve(task: dict[str, Any]) -> None:
    """What each worker runs; Ray has made torch.distributed's group."""
    os.chdir(task["folder"])
    import_module("triplex.distributed.worker").work(task)


@contextmanager
def cluster(ray: Any, compute: ComputeConfig) -> Iterator[None]:
    """Inside, this process is connected; InputError for a cluster that is not there or too small."""
    address = os.environ.get(ADDRESS)
    quiet = ray.LoggingConfig(log_level="ERROR")  # what the workers print comes through
    variables = {"OMP_NUM_THREADS": str(compute.threads), "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
    environment = {"env_vars": {"PYTHONPATH": os.getcwd()} | variables}
    if address is None:
        os.environ.setdefault(TOKEN, token_hex(32))  # nobody else is to start a process in it
        ray.init(address="local", include_dashboard=False, runtime_env=environment, logging_config=quiet)
    else:
        reach(address)
        ray.init(address=address, runtime_env=environment, logging_config=quiet)
    try:
        there, wanted = ray.cluster_resources().get("CPU", 0), compute.num_workers * compute.threads
        if wanted > there:
            each = f"{compute.num_workers} workers of {compute.threads} threads"
            what = f"{each} need {wanted} CPUs, and the cluster has {there:g}"
            raise InputError(_WHERE, what, "lower num_workers or threads, or add nodes to the cluster")
        yield
    finally:
        ray.shutdown()


def reach(address: str) -> None:
    """InputError unless somebody listens there: Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        what, remedy = f"{address}: no Ray cluster answers ({error})", "start it, mend the address, or unset it"
        raise InputError(f"environment: {ADDRESS}", what, remedy) from error
