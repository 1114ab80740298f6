"""A small model, workers that share what a test gives them to do, and a Ray cluster that is there."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil
import pytest

from triplex.distributed.launch import run_workers
from triplex.distributed.ray_cluster import TOKEN, import_ray
from triplex.models.saving import save_model
from triplex.runs.params import ComputeConfig
from triplex.runs.processes import end_all, living
from triplex.runs.stage import Run


@pytest.fixture(scope="module")
def share(tiny_lm: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`share(("deepspeed", 2, 3), {"sft": {...}})`: for each part what each of two workers at ZeRO 3 has written.

    The parts are those of parts_work.py; the folder is a fresh one unless it is given.
    """
    root = tmp_path_factory.mktemp("share")
    save_model(root / "model", tiny_lm(), tiny_tokenizer)
    runs = iter(range(100))

    def start(
        how: tuple[str, int, int], parts: dict[str, Any], *, folder: Path | None = None, max_failures: int = 1
    ) -> dict[str, list[dict[str, Any]]]:
        folder = folder or root / f"run-{next(runs)}"
        (folder / "state").mkdir(parents=True, exist_ok=True)
        executor, num_workers, zero_stage = how
        compute = ComputeConfig.model_validate({
            "executor": executor, "num_workers": num_workers, "threads": 1, "precision": "float32",
            "deepspeed": {"zero_stage": zero_stage, "offload": False}, "max_failures": max_failures,
        })  # fmt: skip
        given = {"model": str(root / "model"), "parts": parts}
        run_workers(compute, "tests.triplex.distributed.parts_work", given, Run("train@x", 7, folder / "state"))
        return {
            name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(num_workers)]
            for name in parts
        }

    return start


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster with two CPUs that `ray start` has started; its token is in this process's environment.

    It stays the same for all of the tests: Ray reads it once.
    """
    os.environ.setdefault(TOKEN, token_hex(32))
    import_ray()
    log = tmp_path_factory.mktemp("head") / "log"
    ports = {name: _free_port() for name in ("port", "ray-client-server-port", "dashboard-agent-listen-port")}
    options = [f"--{name}={value}" for name, value in (ports | {"min-worker-port": 0, "max-worker-port": 0}).items()]
    options += ["--num-cpus=2", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *options]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    while "Ray runtime started" not in log.read_text():
        assert process.poll() is None, log.read_text()
    yield f"127.0.0.1:{ports['port']}"
    started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    end_all(lambda: living(started), grace_seconds=0.0)  # by itself it waits half a minute for actors that were killed
    process.wait()


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
