"""One training of `benchmarks.planned`: writes how much its process grew, or how long a step took."""

import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import give_back_what_is_freed, resident
from benchmarks.training import EvenTokens, Size, make_trainer, write_model
from pipelines.sizing import Job
from triplex.distributed.launch import run_workers
from triplex.distributed.strategy import Strategy
from triplex.rl.callbacks import Callback
from triplex.rl.trainer import Trainer
from triplex.runs.allocator import keep_freed_memory
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run

NUM_STEPS = {"memory": 2, "seconds": 3}
TINY = Size(1, 64, 1, 64, 16)


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    """What each worker does."""
    torch.set_num_threads(1)
    folder, (layers, width, vocab, values) = run.state.parent, given["case"]
    job = Job(**values)
    size = Size(layers, width, width // 64, vocab, job.num_sequences, job.prompt_tokens, job.new_tokens)
    if given["what"] == "memory":
        give_back_what_is_freed()
        train(TINY, Job(group_size=8), folder / "tiny", 2, Strategy(), Run("tiny", 7, folder / f"tiny-{strategy.rank}"))
        before = resident("VmRSS")
        found: float = train(size, job, folder / "model", NUM_STEPS["memory"], strategy, run).bytes - before
    else:
        keep_freed_memory()
        ends = train(size, job, folder / "model", NUM_STEPS["seconds"], strategy, run).ends
        found = statistics.median(end - start for start, end in pairwise(ends))
    (folder / f"worker-{strategy.rank}.json").write_text(json.dumps(found))


class Watch(Callback):
    """When each step ended, by the processor's clock, and what the process has held at most, before it saves."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        self.ends.append(time.process_time())
        self.bytes = resident("VmHWM")


def train(size: Size, job: Job, model: Path, num_steps: int, strategy: Strategy, run: Run) -> Watch:
    """Steps of the model in `model`."""
    watch = Watch()
    name = "grpo" if job.group_size > 1 else "ppo_network" if job.has_value_network else "ppo"
    make_trainer(
        name, size, model, num_steps, EvenTokens(), [watch], run, strategy, lora_rank=job.lora_rank
    ).train()  # fmt: skip
    return watch


def main() -> None:
    """In this process, or in workers that it starts."""
    task = json.loads(sys.argv[1])
    job, folder = Job(**task["case"][3]), Path(task["folder"])
    layers, width, vocab, _ = task["case"]
    size = Size(layers, width, width // 64, vocab, job.num_sequences, job.prompt_tokens, job.new_tokens)
    write_model(size, folder / "model")
    write_model(TINY, folder / "tiny")
    (folder / "state").mkdir()
    compute = ComputeConfig.model_validate({
        "executor": "deepspeed" if job.num_devices > 1 else "local", "num_workers": job.num_devices, "threads": 1,
        "precision": job.precision, "deepspeed": {"zero_stage": job.zero_stage, "offload": False}, "max_failures": 0,
    })  # fmt: skip
    run_workers(compute, "benchmarks.planned_work", task, Run("planned", 7, folder / "state"))


if __name__ == "__main__":
    main()
