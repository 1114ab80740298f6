"""One training of `benchmarks.planned_memory`: writes how much its process grew."""

import json
import sys
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
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run

NUM_STEPS = 2


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    """What each worker does."""
    torch.set_num_threads(1)
    give_back_what_is_freed()
    folder = run.state.parent
    train(
        "grpo",
        Size(1, 64, 1, 64, 16),
        Job(),
        folder / "tiny",
        Strategy(),
        Run("tiny", 7, folder / f"tiny-{strategy.rank}"),
    )
    before = resident("VmRSS")
    layers, width, vocab, values = given["case"]
    job = Job(**values)
    size = Size(layers, width, width // 64, vocab, job.num_sequences, job.prompt_tokens, job.new_tokens)
    peak = train("ppo_network" if job.has_value_network else "grpo", size, job, folder / "model", strategy, run)
    (folder / f"worker-{strategy.rank}.json").write_text(json.dumps({"bytes": peak - before}))


class Peak(Callback):
    """What the process has held at most when the last step ends, and nothing has been saved yet."""

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        self.bytes = resident("VmHWM")


def train(name: str, size: Size, job: Job, model: Path, strategy: Strategy, run: Run) -> int:
    """Two steps of the model in `model`; the bytes of this process at its peak."""
    peak = Peak()
    trainer = make_trainer(name, size, model, NUM_STEPS, EvenTokens(), [peak], run, strategy)
    trainer.config = trainer.config.model_copy(update={"max_tokens_per_pass": job.tokens_per_pass})
    trainer.train()
    return peak.bytes


def main() -> None:
    """In this process, or in workers that it starts."""
    task = json.loads(sys.argv[1])
    job, folder = Job(**task["case"][3]), Path(task["folder"])
    layers, width, vocab, _ = task["case"]
    size = Size(layers, width, width // 64, vocab, job.num_sequences, job.prompt_tokens, job.new_tokens)
    write_model(size, folder / "model")
    write_model(Size(1, 64, 1, 64, 16), folder / "tiny")
    (folder / "state").mkdir()
    compute = ComputeConfig.model_validate({
        "executor": "deepspeed" if job.num_devices > 1 else "local", "num_workers": job.num_devices, "threads": 1,
        "precision": job.precision, "deepspeed": {"zero_stage": job.zero_stage, "offload": False}, "max_failures": 0,
    })  # fmt: skip
    run_workers(compute, "benchmarks.planned_memory_work", task, Run("planned", 7, folder / "state"))


if __name__ == "__main__":
    main()
