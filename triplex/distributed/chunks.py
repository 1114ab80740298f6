"""A table through a model, chunk by chunk, in this process or in a pool of Ray's actors: same chunks, order and bytes.

Chunks are the row groups of a parquet file. Each is read where it is needed, so memory does not grow with the file.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from triplex.distributed.launch import check_installed
from triplex.distributed.worker import ERROR
from triplex.runs.params import ComputeConfig
from triplex.runs.seeds import seed_everything
from triplex.runs.stage import Run


class Mapper:
    """One process's model. `module`.Worker(given) is called with the rows of a chunk and gives rows of its own."""

    def __init__(self, module: str, given: dict[str, Any], source: Path) -> None:
        self._worker = import_module(module).Worker(given)
        self._file = pq.ParquetFile(source, page_checksum_verification=True)

    def __call__(self, chunk: int) -> pa.Table:
        return self._worker(self._file.read_row_group(chunk))


def map_chunks(
    compute: ComputeConfig, module: str, given: dict[str, Any], source: Path, run: Run
) -> Iterator[pa.Table]:
    """What the workers make of each chunk of the parquet file `source`, in its order; `given` is JSON.

    With `executor: ray` by `num_workers` actors of `threads` CPUs each, which share the project's folder with this
    process; else here.
    """
    num_chunks = pq.ParquetFile(source).num_row_groups
    if compute.executor != "ray":
        yield from map(Mapper(module, given, source), range(num_chunks))
        return
    check_installed(compute)
    from triplex.distributed.ray_data import map_numbers

    task = {
        "module": module, "given": given, "source": str(source.resolve()), "folder": str(Path.cwd()),
        "seed": run.seed, "threads": compute.threads, "error": str((run.state / ERROR).resolve()),
    }  # fmt: skip
    yield from map_numbers(compute, task, num_chunks)


def mapper_of(task: dict[str, Any]) -> Mapper:
    """In a process of its own, as `map_chunks` has put it."""
    seed_everything(task["seed"], task["threads"])
    return Mapper(task["module"], task["given"], Path(task["source"]))
