"""What a core of this machine does in a second, as `pipelines/devices.py` has it: `python -m benchmarks.device`.

One thread; medians of the processor's seconds. Prints the `Device` of one core.

- flops: of a matrix product of a pass's size, 1,024 rows through 768 x 3,072
- weights: bytes a second of the matrices of that size that 16 rows go through, what their operations take left out
- bandwidth: bytes a second that the sum of two tensors larger than the caches reads and writes
- link: bytes a second, by the clock, that each of two processes sends while gloo adds 64 MB up
- layer: seconds of a layer, 16 wide, for one more token of one sequence
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed, multiprocessing

from benchmarks.pipeline import environment
from benchmarks.training import Size, read_model, read_tokenizer, write_model
from pipelines.devices import Device
from triplex.models.huggingface import HuggingFaceLM
from triplex.rl.rollout import sample_responses
from triplex.runs.allocator import keep_freed_memory

ROWS, FEW_ROWS, WIDTH, INNER, NUM_MATRICES = 1024, 16, 768, 3072, 16
LARGE = 16 * 2**20  # numbers
NUM_TIMES = 9
SMALL = Size(8, 16, 1, 16, 1)


def seconds_of(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Median, after a first call."""
    found = []
    for _ in range(NUM_TIMES + 1):
        begin = clock()
        work()
        found.append(clock() - begin)
    return statistics.median(found[1:])


def flops(dtype: torch.dtype) -> float:
    """Operations a second."""
    a, b = torch.randn(ROWS, WIDTH, dtype=dtype), torch.randn(WIDTH, INNER, dtype=dtype)
    return 2 * ROWS * WIDTH * INNER / seconds_of(lambda: a @ b)


def weights(operations: float) -> float:
    """Bytes a second."""
    rows, matrices = torch.randn(FEW_ROWS, WIDTH), torch.randn(NUM_MATRICES, WIDTH, INNER)
    num = matrices.numel()
    return 4 * num / (seconds_of(lambda: [rows @ each for each in matrices]) - 2 * FEW_ROWS * num / operations)


def bandwidth() -> float:
    """Bytes a second."""
    a, b, total = torch.randn(3, LARGE)
    return 3 * 4 * LARGE / seconds_of(lambda: torch.add(a, b, out=total))


def layer() -> float:
    """Seconds."""
    with TemporaryDirectory() as folder:
        write_model(SMALL, Path(folder))
        lm = HuggingFaceLM(read_model(Path(folder)), read_tokenizer(Path(folder)))
    ids = torch.ones(1, SMALL.prompt_tokens, dtype=torch.long)

    def sample() -> None:
        sample_responses(
            lm, ids, ids.bool(), [0], group_size=1, max_new_tokens=SMALL.new_tokens, temperature=1.0, pad_id=0
        )

    return seconds_of(sample) / SMALL.new_tokens / SMALL.num_layers


def _add_up(rank: int, store: str, found: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    tensor = torch.ones(LARGE)
    seconds = seconds_of(lambda: distributed.all_reduce(tensor), time.perf_counter)
    if rank == 0:
        Path(found).write_text(str(tensor.nbytes / seconds))  # a ring of two sends each byte once
    distributed.destroy_process_group()


def link() -> float:
    """Bytes a second."""
    with TemporaryDirectory() as folder:
        store, found = f"{folder}/store", f"{folder}/found"
        multiprocessing.spawn(_add_up, (store, found), nprocs=2)
        return float(Path(found).read_text())


def measure() -> Device:
    """One core of this machine; a network is not looked at."""
    torch.set_num_threads(1)
    keep_freed_memory()
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    operations = flops(torch.float32)
    between = link()
    return Device(
        whole / (os.cpu_count() or 1), {"float32": operations, "bfloat16": flops(torch.bfloat16)}, weights(operations),
        bandwidth(), between, between, layer(), has_reduce_scatter=False,
    )  # fmt: skip


def main() -> None:
    """Print the device."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(environment())
    for name, number in measure()._asdict().items():
        print(name, number if isinstance(number, dict) else f"{number:.3g}")


if __name__ == "__main__":
    main()
