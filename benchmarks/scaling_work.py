"""What each worker of `benchmarks.scaling` does: trains, and writes down how long it took and what came of it."""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks import training
from benchmarks.memory import resident
from benchmarks.training import EvenTokens, Size, make_trainer
from triplex.distributed.strategy import Strategy
from triplex.rl.batch import Batch
from triplex.rl.callbacks import Callback
from triplex.rl.trainer import Trainer
from triplex.runs.digests import digest
from triplex.runs.stage import Run


class Watch(Callback):
    """When each step ended, what was sampled in it, and its loss."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.ids: list[str] = []
        self.losses: list[float] = []

    def on_rollout(self, trainer: Trainer, step: int, batch: Batch) -> None:
        self.ids.append(digest([batch.response_ids, batch.response_mask]))

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        self.ends.append(time.perf_counter())
        self.losses.append(metrics["loss"])


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    """Writes worker-RANK.json beside the state folder."""
    training.LEARNING_RATE = given["learning_rate"]
    watch = Watch()
    trainer = make_trainer(
        given["algorithm"], Size(*given["size"]), Path(given["model"]), given["num_steps"], EvenTokens(), [watch], run,
        strategy,
    )  # fmt: skip
    trainer.train()
    seconds = [end - start for start, end in zip(watch.ends, watch.ends[1:], strict=False)]
    found = {
        "weights": digest(strategy.weights().values()), "ids": watch.ids, "losses": watch.losses, "seconds": seconds,
        "peak": resident("VmHWM"),
    }  # fmt: skip
    (run.state.parent / f"worker-{strategy.rank}.json").write_text(json.dumps(found))
