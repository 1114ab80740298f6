"""The cluster that a stage starts, and the one that it is told of."""

import json
import os
import signal
import socket
from typing import Any

import psutil
import pytest

from triplex.distributed import ray_cluster
from triplex.distributed.ray import Job
from triplex.distributed.ray_cluster import ADDRESS, TOKEN, check_size, cluster, import_ray, refuse_other
from triplex.runs.errors import InputError
from triplex.runs.params import ComputeConfig

METADATA, NAMESPACE = b"CLUSTER_METADATA", b"cluster"  # what Ray has written down of the head's versions


def compute(num_workers: int = 1, threads: int = 1) -> ComputeConfig:
    zero = {"zero_stage": 0, "offload": False}
    given = {"executor": "ray", "num_workers": num_workers, "threads": threads, "precision": "float32"}
    return ComputeConfig.model_validate(given | {"deepspeed": zero, "max_failures": 0})


@pytest.fixture(autouse=True)
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)


def test_a_cluster_of_the_stages_own_listens_on_this_machine_alone_and_ends_with_it() -> None:
    ray: Any = import_ray()
    me = psutil.Process()
    before, on_sigterm = set(me.children(recursive=True)), signal.getsignal(signal.SIGTERM)
    with cluster(ray, compute()):
        assert signal.getsignal(signal.SIGTERM) == on_sigterm  # by which a stage saves first
        started = set(me.children(recursive=True)) - before
        heard = {
            (process.name(), place.laddr.ip)
            for process in started
            for place in process.net_connections("tcp")
            if place.status == psutil.CONN_LISTEN
        }
        assert heard
        assert {ip.removeprefix("::ffff:") for _, ip in heard} == {"127.0.0.1"}, heard
        assert len(os.environ[TOKEN]) == 64
        told = ray.remote(num_cpus=0)(lambda: os.environ[ADDRESS]).remote()  # by which Ray Train asks it, and no other
        assert ray.get(told) == ray.get_runtime_context().gcs_address
    _, left = psutil.wait_procs(started, 10)
    assert not left


def test_workers_of_a_cluster_that_is_there_go_by_the_address_of_their_node(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, head)
    ray: Any = import_ray()
    with cluster(ray, compute(num_workers=2)):
        assert ray.get(ray.remote(lambda: os.environ["GLOO_SOCKET_IFNAME"]).remote()) == "lo"
        with pytest.raises(InputError, match=r"3 workers of 1 CPUs, and the cluster \(2 CPUs\) has room for 2\n"):
            check_size(ray, compute(num_workers=3))
        with pytest.raises(InputError, match=r"1 workers of 3 CPUs, and the cluster \(2 CPUs\) has room for 0\n"):
            check_size(ray, compute(threads=3))


def test_another_token_is_refused(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, head)
    monkeypatch.setenv(TOKEN, "0" * 64)
    with pytest.raises(InputError, match=rf"RAY_AUTH_TOKEN: the cluster at {head} refuses it\n"):
        ray_cluster.reach(head)


@pytest.mark.parametrize(
    ("what", "said"), [("ray_version", "Ray version mismatch"), ("python_version", r"Version mismatch.* Python: 3\.1 ")]
)
def test_a_cluster_of_other_versions_is_refused(
    head: str, monkeypatch: pytest.MonkeyPatch, what: str, said: str
) -> None:
    monkeypatch.setenv(ADDRESS, head)
    ray: Any = import_ray()
    store = ray._raylet.GcsClient(address=head)
    there = store.internal_kv_get(METADATA, NAMESPACE)
    store.internal_kv_put(METADATA, json.dumps(json.loads(there) | {what: "3.1"}).encode(), True, NAMESPACE)
    try:
        with pytest.raises(InputError, match=said), cluster(ray, compute()):
            pass
    finally:
        store.internal_kv_put(METADATA, there, True, NAMESPACE)


@pytest.mark.parametrize("what", ["python", "torch", "folder"])
def test_a_node_with_something_else_is_named(what: str) -> None:
    here = {"python": "3.11.7", "torch": "2.13.0", "folder": "/project"}
    with pytest.raises(InputError, match=rf"node 10\.0\.0\.2: {what} is other, here {here[what]}\n  remedy: "):
        refuse_other("node 10.0.0.2", here, here | {what: "other"})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_an_address_where_nobody_answers_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, address)
    said = rf"RAY_ADDRESS = {address}: no Ray cluster answers"
    with pytest.raises(InputError, match=said), cluster(import_ray(), compute()):
        pass


def test_what_listens_there_and_is_no_ray_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_LOOK_SECONDS", 4.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=r"what listens there answers in 4 s nothing that Ray would"):
            ray_cluster.reach(address)


def test_an_address_of_ray_client_is_refused() -> None:
    with pytest.raises(InputError, match=r"ray://10\.0\.0\.1:10001: an address of Ray Client, which cannot train\n"):
        ray_cluster.reach("ray://10.0.0.1:10001")


def test_workers_that_died_are_not_blamed_for_ray_trains_own_process() -> None:
    class Killed:
        def fit(self) -> None:
            from ray.exceptions import OutOfMemoryError

            raise OutOfMemoryError("the node ran low on memory")

    job = Job(Killed(), compute(), "state")
    assert job.wait(60)
    said = "looks after the workers was lost: the node ran low on memory; the last checkpoint is kept"
    with pytest.raises(InputError, match=said):
        job.check()
