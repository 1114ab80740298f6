"""The Ray cluster under a stage: that of RAY_ADDRESS, looked at before it is used, else one of the stage's own."""

import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from secrets import token_hex
from typing import Any

import psutil

from triplex.runs.errors import InputError
from triplex.runs.params import ComputeConfig

ADDRESS, TOKEN, _PORT = "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_GCS_SERVER_PORT"
PACKAGES = ("ray", "torch", "transformers")  # of which all nodes have the same versions, as of Python
START_SECONDS = 60  # in which the cluster has to have room for all workers
_REACH_SECONDS, _LOOK_SECONDS = 10.0, 30.0
_WHERE = "params.yaml: compute.num_workers"


def import_ray() -> Any:
    """The package, with its telemetry off and its authentication on."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_DEDUP_LOGS": "0",
        "RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_SECONDS), "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_METRICS_ENABLED": "0", "RAY_prestart_worker_first_driver": "0",  # in an environment not the workers'
        "RAY_worker_niceness": "0",  # by Ray's 15 whatever else runs on the machine comes before the training
    }  # fmt: skip
    if ADDRESS not in os.environ:
        os.environ |= {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # by which Ray, on any system, stays on loopback
            "RAY_enable_autoscaler_v2": "1",  # it ends when it is asked to, the first one a second later
        }
    import ray

    return ray


@contextmanager
def cluster(ray: Any, compute: ComputeConfig, part: str = "ray") -> Iterator[None]:
    """Inside, this process is connected, and that part of Ray imported: a second, in which the cluster starts.

    InputError for a cluster that is not there, too small, or another.
    """
    importing = ThreadPoolExecutor(1).submit(import_module, part)
    address = os.environ.get(ADDRESS)
    quiet = ray.LoggingConfig(log_level="ERROR")  # what the workers print comes through
    variables = {"OMP_NUM_THREADS": str(compute.threads), "RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}
    environment: dict[str, Any] = {"env_vars": {"PYTHONPATH": os.getcwd()} | variables}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if address is None:
        os.environ.setdefault(TOKEN, token_hex(32))  # nobody else is to start a process in it
        os.environ[_PORT] = str(free_port())
        environment["env_vars"][ADDRESS] = f"127.0.0.1:{os.environ[_PORT]}"  # else Ray Train finds another's cluster
        set_policy("BATCH")
        ray.init(address="local", include_dashboard=False, runtime_env=environment, logging_config=quiet)
        set_policy("OTHER")
    else:
        reach(address)
        environment["worker_process_setup_hook"] = f"{__name__}.{use_own_address.__name__}"
        try:
            ray.init(address=address, runtime_env=environment, logging_config=quiet)
        except (RuntimeError, ConnectionError) as error:  # another Python, no node of the cluster on this machine
            raise _refused(address, " ".join(str(error).split())) from error
    signal.signal(signal.SIGTERM, on_sigterm)  # in whose place Ray has put one that ends the process at once
    try:
        if address is not None:
            check_nodes(ray, address)
        check_size(ray, compute)
        importing.result()
        yield
    finally:
        ray.shutdown()


def set_policy(policy: str) -> None:
    """How Linux gives this thread, and what it starts, a core: one of BATCH takes none from another when it wakes.

    A cluster of the stage's own wakes two thousand times a second; each time a training on all cores would stop.
    """
    if sys.platform == "linux":
        os.sched_setscheduler(0, getattr(os, f"SCHED_{policy}"), os.sched_param(0))


def free_port() -> int:
    """One of this machine on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def reach(address: str) -> None:
    """InputError unless a Ray cluster listens there and lets this process in: Ray itself would try for minutes."""
    if address.startswith("ray://"):
        remedy = f"{ADDRESS}=HOST:6379 on a machine of the cluster, or send the stage there by `ray job submit`"
        raise InputError(f"environment: {ADDRESS} = {address}", "an address of Ray Client, which cannot train", remedy)
    host, _, port = address.rpartition(":")
    ask = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", address]
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
        subprocess.run(ask, check=True, capture_output=True, text=True, timeout=_LOOK_SECONDS)
    except (OSError, ValueError) as error:
        raise _refused(address, f"no Ray cluster answers ({error})") from error
    except subprocess.TimeoutExpired as error:
        raise _refused(address, f"what listens there answers in {_LOOK_SECONDS:g} s nothing that Ray would") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().rpartition("\n")[2]
        if "AuthenticationError" in said:
            remedy = f"set {TOKEN} to the token that the cluster was started with"
            raise InputError(f"environment: {TOKEN}", f"the cluster at {address} refuses it", remedy) from error
        raise _refused(address, said) from error


def _refused(address: str, what: str) -> InputError:
    remedy = "start it with these versions of Ray and Python, mend the address, or unset it for a cluster of one's own"
    return InputError(f"environment: {ADDRESS} = {address}", what, remedy)


def check_nodes(ray: Any, address: str) -> None:
    """InputError unless every node has the versions of this process, and sees its folder."""

    @ray.remote(num_cpus=0)
    def look(packages: tuple[str, ...], folder: str) -> dict[str, str]:
        found = {"python": platform.python_version()} | {name: version(name) for name in packages}
        return found | {"folder": folder if os.path.isdir(folder) else "none"}

    here = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    here["folder"] = os.getcwd()
    given = (PACKAGES, here["folder"])
    pin = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = [
        (node["NodeManagerAddress"], look.options(scheduling_strategy=pin(node["NodeID"], soft=False)).remote(*given))
        for node in ray.nodes() if node["Alive"]
    ]  # fmt: skip
    for name, answer in asked:
        where = f"environment: {ADDRESS} = {address}, its node {name}"
        try:
            there = ray.get(answer, timeout=_LOOK_SECONDS)
        except ray.exceptions.RayError as error:
            remedy = "see that it has the project's folder under the same path, or take it out of the cluster"
            raise InputError(where, f"runs no task ({error})", remedy) from error
        refuse_other(where, here, there)


def refuse_other(where: str, here: dict[str, str], there: dict[str, str]) -> None:
    """InputError for the first thing that a node has otherwise than this process."""
    for name, one in here.items():
        if there[name] != one:
            remedy = "see that all nodes share the project's folder under one path, and install the same there"
            raise InputError(where, f"{name} is {there[name]}, here {one}", remedy)


def check_size(ray: Any, compute: ComputeConfig) -> None:
    """InputError for more workers than find their CPUs, and where there are GPUs one of them, on a node."""
    needs = worker_resources(ray, compute)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = sum(min(int(node.get(name, 0) // number) for name, number in needs.items()) for node in nodes)
    if compute.num_workers > places:
        each = " and ".join(f"{number} {name}s" for name, number in needs.items())
        has = ", ".join(f"{sum(node.get(name, 0) for node in nodes):g} {name}s" for name in needs)
        what = f"{compute.num_workers} workers of {each}, and the cluster ({has}) has room for {places}"
        raise InputError(_WHERE, what, "lower num_workers or threads, or add nodes to the cluster")


def worker_resources(ray: Any, compute: ComputeConfig) -> dict[str, int]:
    """What a worker takes of its node."""
    return {"CPU": compute.threads} | ({"GPU": 1} if ray.cluster_resources().get("GPU") else {})


def use_own_address() -> None:
    """In a worker: gloo goes by the address that the cluster knows this node by, not by what the host is named."""
    import ray

    own = ray.util.get_node_ip_address()
    (name,) = [name for name, places in psutil.net_if_addrs().items() if own in {place.address for place in places}]
    os.environ["GLOO_SOCKET_IFNAME"] = name
