"""What each worker of `benchmarks.scaling` does: trains, and writes down how long it took and what came of it."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import training
from benchmarks.training import EvenTokens, Size, make_trainer, read_model
from triplex.distributed.strategy import Strategy
from triplex.models.optim import OptimConfig
from triplex.models.packing import Example, collate, next_token_loss, pack
from triplex.models.training import SupervisedTrainer
from triplex.rl.batch import Batch
from triplex.rl.callbacks import Callback
from triplex.rl.trainer import Trainer
from triplex.runs.digests import LIVE, digest, read_rows
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
    train = supervised if given["algorithm"] == "sft" else reinforcement
    found = train(given, run, strategy)
    found["weights"] = digest(strategy.weights().values())
    (run.state.parent / f"worker-{strategy.rank}.json").write_text(json.dumps(found))


def reinforcement(given: dict[str, Any], run: Run, strategy: Strategy) -> dict[str, Any]:
    """Digests of the sampled ids, losses and seconds of the steps after the first."""
    training.LEARNING_RATE, training.MAX_TOKENS_PER_PASS = given["learning_rate"], given["max_tokens_per_pass"]
    watch = Watch()
    make_trainer(
        given["algorithm"], Size(*given["size"]), Path(given["model"]), given["num_steps"], EvenTokens(), [watch], run,
        strategy,
    ).train()  # fmt: skip
    seconds = [end - start for start, end in zip(watch.ends, watch.ends[1:], strict=False)]
    return {"ids": watch.ids, "losses": watch.losses, "seconds": seconds}


def supervised(given: dict[str, Any], run: Run, strategy: Strategy) -> dict[str, Any]:
    """Digests of the rows read, and losses."""
    size, num_steps = Size(*given["size"]), given["num_steps"]
    length = size.prompt_tokens + size.new_tokens
    generator = torch.Generator().manual_seed(run.seed)
    tokens = torch.randint(size.vocab_size, (num_steps * size.num_sequences, length), generator=generator).tolist()
    optim = OptimConfig(
        num_epochs=1, batch_size=size.num_sequences, learning_rate=given["learning_rate"], warmup_frac=0.1,
        weight_decay=0.01, max_grad_norm=1.0, checkpoint_every=num_steps,
    )  # fmt: skip
    trainer = SupervisedTrainer(
        "sft", read_model(Path(given["model"])), pack([Example(row, size.prompt_tokens) for row in tokens], length),
        partial(collate, block_size=length, pad_token_id=0), next_token_loss, optim, seed=run.seed,
        precision="float32", state=run.state, strategy=strategy,
    )  # fmt: skip
    trainer.train()
    strategy.largest(0)  # the first worker has written its digests
    return {"ids": [row["data"] for row in read_rows(run.state / LIVE)], "losses": trainer.losses}
