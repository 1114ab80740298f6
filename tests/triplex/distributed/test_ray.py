"""The cluster that a stage starts, and the one that it is told of."""

import os
import time
from typing import Any

import psutil
import pytest

from triplex.distributed.ray import ADDRESS, TOKEN, cluster, import_ray, start
from triplex.runs.errors import InputError
from triplex.runs.params import ComputeConfig


def compute(num_workers: int) -> ComputeConfig:
    zero = {"zero_stage": 0, "offload": False}
    given = {"executor": "ray", "num_workers": num_workers, "threads": 1, "precision": "float32", "max_failures": 0}
    return ComputeConfig.model_validate(given | {"deepspeed": zero})


@pytest.fixture(autouse=True)
def own_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)


def test_a_cluster_of_the_stages_own_listens_on_this_machine_alone_and_ends_with_it() -> None:
    ray: Any = import_ray()
    me = psutil.Process()
    before = set(me.children(recursive=True))
    with cluster(ray, compute(1)):
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
    _, left = psutil.wait_procs(started, 10)
    assert not left


def test_more_workers_than_there_are_cpus_are_refused_at_once() -> None:
    said = r"4000 workers of 1 threads need 4000 CPUs, and the cluster has \d+\n"
    begin = time.monotonic()
    with pytest.raises(InputError, match=said), start(compute(4000), {"run": {"name": "x", "state": "x"}}):
        pass
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"])
def test_an_address_where_nobody_answers_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, address)
    said = rf"RAY_ADDRESS: {address}: no Ray cluster answers"
    with pytest.raises(InputError, match=said), cluster(import_ray(), compute(1)):
        pass
