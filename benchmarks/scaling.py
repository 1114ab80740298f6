"""What several workers change, and what they do not: `python -m benchmarks.scaling equality throughput`.

Trains a random GPT-2 in one process, through torchrun and through Ray, by one worker and by two, at every stage of
ZeRO; every worker has one thread. Needs the extras ray and deepspeed. Prints Markdown.

- equality: 20 steps of GRPO, PPO and SFT; the weights' digests side by side, the ids sampled or read, and the losses
  against those of one process; with GRPO also of one process that makes the passes of two workers
- throughput: seconds a step, and those of the stage beside its steps: start of the workers, imports, model, end; also
  of two processes apart, which is what the cores give at best
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from benchmarks.pipeline import environment
from benchmarks.training import MAX_TOKENS_PER_PASS, Size, write_model
from triplex.distributed.launch import run_workers
from triplex.runs import interrupt
from triplex.runs.allocator import keep_freed_memory
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run

SMALL = Size(2, 64, 2, 512, 32)
#: at 1e-3 a third of PPO's tokens lies beyond its clip; one that rounding puts on the other side changes the descent
LEARNING_RATES = {"grpo": 1e-3, "ppo": 1e-4, "sft": 1e-3}
STEPS = {"equality": 20, "throughput": 16}


class How(NamedTuple):
    """Who starts the workers, how many they are, what is divided among them."""

    executor: str
    num_workers: int
    zero_stage: int

    def __str__(self) -> str:
        name = {"deepspeed": "torchrun"}.get(self.executor, self.executor)
        return f"{name}, {self.num_workers} worker{'s' * (self.num_workers > 1)}, ZeRO {self.zero_stage}"


ALONE = How("local", 1, 0)
TWO = [How(executor, 2, stage) for stage in range(4) for executor in ("deepspeed", "ray")]


def measure(
    how: How, algorithm: str, size: Size, num_steps: int, tokens: int = MAX_TOKENS_PER_PASS
) -> tuple[list[dict[str, Any]], float]:
    """What each worker has written down, and the seconds of the whole."""
    with TemporaryDirectory() as folder:
        model, state = Path(folder) / "model", Path(folder) / "state"
        state.mkdir()
        write_model(size, model)
        compute = ComputeConfig.model_validate({
            "executor": how.executor, "num_workers": how.num_workers, "threads": 1, "precision": "float32",
            "deepspeed": {"zero_stage": how.zero_stage, "offload": False}, "max_failures": 0,
        })  # fmt: skip
        given = {
            "algorithm": algorithm, "size": list(size), "num_steps": num_steps, "model": str(model),
            "learning_rate": LEARNING_RATES[algorithm], "max_tokens_per_pass": tokens,
        }  # fmt: skip
        begin = time.perf_counter()
        run_workers(compute, "benchmarks.scaling_work", given, Run("benchmark", 7, state))
        seconds = time.perf_counter() - begin
        return [json.loads((Path(folder) / f"worker-{i}.json").read_text()) for i in range(how.num_workers)], seconds


def equality(algorithms: list[str]) -> None:
    """Digests of the weights, and how far losses are from those of one process."""
    print("| algorithm | how | weights | the same ids as one process, steps | largest relative difference of a loss |")
    print("|---|---|---|---|---|")
    ones = [How("deepspeed", 1, 0), How("ray", 1, 0), How("deepspeed", 1, 2)]
    runs = [(str(how), how, MAX_TOKENS_PER_PASS) for how in [*ones, *TWO]]
    halves = [(f"{ALONE}, two passes", ALONE, SMALL.num_sequences // 2 * (SMALL.prompt_tokens + SMALL.new_tokens))]
    for algorithm in algorithms:
        (alone,), _ = measure(ALONE, algorithm, SMALL, STEPS["equality"])
        print(f"| {algorithm} | {ALONE} | {alone['weights']} | | |", flush=True)
        for name, how, tokens in halves * (algorithm == "grpo") + runs:
            found, _ = measure(how, algorithm, SMALL, STEPS["equality"], tokens)
            same = sum(a == b for a, b in zip(found[0]["ids"], alone["ids"], strict=True))
            scale = max(map(abs, alone["losses"]))
            apart = max(abs(a - b) for a, b in zip(found[0]["losses"], alone["losses"], strict=True)) / scale
            cells = [algorithm, name, found[0]["weights"], f"{same} of {len(alone['ids'])}", f"{apart:.1e}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def throughput() -> None:
    """Seconds a step and beside the steps, of a model whose step is mostly calls, and of one of mostly sums; of that
    with as many responses again, since a worker's half of them costs a token of the rollout more than half.

    Two processes that train apart, each the whole batch, show what the cores would give two workers at best.
    """
    print("| layers x width, sequences | how | s a step | against one process | beside the steps, s |")
    print("|---|---|---|---|---|")
    several = [How("deepspeed", 1, 0), How("ray", 1, 0), How("deepspeed", 2, 0), How("ray", 2, 0), How("ray", 2, 2)]
    for size in (Size(4, 128, 4, 2048, 64), Size(6, 384, 6, 2048, 64), Size(6, 384, 6, 2048, 128)):
        name = f"{size.num_layers} x {size.hidden_size}, {size.num_sequences}"
        first, beside = step_seconds(ALONE, size)
        print(f"| {name} | {ALONE} | {first:.3f} | 1.00 | {beside:.1f} |", flush=True)
        half, beside = step_seconds(ALONE, size._replace(num_sequences=size.num_sequences // 2))
        print(f"| {name} | local, half the sequences | {half:.3f} | {first / half:.2f} | {beside:.1f} |", flush=True)
        with ProcessPoolExecutor(2, get_context("spawn"), prepare) as pool:
            apart, beside = max(pool.map(step_seconds, [ALONE, ALONE], [size, size]))
        print(f"| {name} | two apart | {apart:.3f} | {2 * first / apart:.2f} | {beside:.1f} |", flush=True)
        for how in several:
            seconds, beside = step_seconds(how, size)
            print(f"| {name} | {how} | {seconds:.3f} | {first / seconds:.2f} | {beside:.1f} |", flush=True)


def step_seconds(how: How, size: Size) -> tuple[float, float]:
    """The median seconds of a step of GRPO, and those of the whole beside the steps."""
    (found, *_), whole = measure(how, "grpo", size, STEPS["throughput"])
    seconds = statistics.median(found["seconds"])
    return seconds, whole - STEPS["throughput"] * seconds


def prepare() -> None:
    """Give this process what each worker has: one thread, and memory that it keeps."""
    torch.set_num_threads(1)
    keep_freed_memory()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=["equality", "throughput"])
    every = list(LEARNING_RATES)
    parser.add_argument("--algorithms", nargs="+", choices=every, default=every, help="rows of equality")
    arguments = parser.parse_args()
    tables: dict[str, Callable[[], None]] = {
        "equality": lambda: equality(arguments.algorithms),
        "throughput": throughput,
    }
    interrupt.install()
    prepare()
    for name in arguments.tables:
        print(f"{name}: {environment()}\n")
        tables[name]()


if __name__ == "__main__":
    main()
