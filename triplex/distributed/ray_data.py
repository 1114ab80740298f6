"""Chunks of a table through a pool of actors, by Ray Data: streamed, in order."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from triplex.distributed.chunks import mapper_of
from triplex.distributed.ray_cluster import cluster, import_ray
from triplex.distributed.worker import tell, told
from triplex.runs.allocator import keep_freed_memory
from triplex.runs.errors import InputError
from triplex.runs.params import ComputeConfig


def map_numbers(compute: ComputeConfig, task: dict[str, Any], num_chunks: int) -> Iterator[pa.Table]:
    """What the mapper of `task` makes of each chunk, in order. InputError as an actor has raised it."""
    ray = import_ray()
    error = Path(task["error"])
    error.unlink(missing_ok=True)
    with cluster(ray, compute, part="ray.data"):
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is told below, once
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = context.print_on_execution_start = False
        numbers = ray.data.from_items([{"chunk": n} for n in range(num_chunks)], override_num_blocks=num_chunks)
        made = numbers.map_batches(
            Actor, fn_constructor_args=[task], batch_size=1, batch_format="pyarrow", num_cpus=compute.threads,
            compute=ray.data.ActorPoolStrategy(size=min(compute.num_workers, num_chunks)),
        )  # fmt: skip
        try:
            yield from made.iter_batches(batch_size=None, batch_format="pyarrow")
        except ray.exceptions.RayTaskError:
            if found := told(error):
                raise found from None
            raise


class Actor:
    """A mapper in a process of the cluster. An InputError goes to the stage through a file: Ray loses its type."""

    def __init__(self, task: dict[str, Any]) -> None:
        os.chdir(task["folder"])
        keep_freed_memory()
        self._mapper, self._error = mapper_of(task), Path(task["error"])

    def __call__(self, numbers: pa.Table) -> pa.Table:
        try:
            return self._mapper(numbers["chunk"][0].as_py())
        except InputError as error:
            tell(self._error, error)
            raise
