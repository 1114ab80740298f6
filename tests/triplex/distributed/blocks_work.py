"""The supervised part of the tests of launching: SFT on 13 short examples in 7 blocks."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import torch

from triplex.distributed.strategy import Strategy
from triplex.models.loading import load_causal_lm
from triplex.models.lora import with_adapters
from triplex.models.optim import LoraConfig, OptimConfig
from triplex.models.packing import Example, collate, next_token_loss, pack
from triplex.models.training import SupervisedTrainer
from triplex.runs.digests import LIVE, digest, read_rows
from triplex.runs.stage import Run


class LeftError(Exception):
    """A training that is left in the middle, by all workers alike."""


OPTIM = OptimConfig(
    num_epochs=2, batch_size=3, learning_rate=1e-2, warmup_frac=0.1, weight_decay=0.01, max_grad_norm=1.0,
    checkpoint_every=2,
)  # fmt: skip
#: an epoch has batches of 3, 3 and 1: of two workers one has more rows than the other, and once none
BLOCKS = pack([Example([(7 * i + j) % 90 + 2 for j in range(10 + i % 5)], 2) for i in range(13)], 24)


def train(given: dict[str, Any], run: Run, strategy: Strategy) -> dict[str, Any]:
    model, _ = load_causal_lm(Path(given["model"]))
    torch.manual_seed(run.seed)  # draws the adapters
    model = with_adapters(model, LoraConfig(rank=given.get("rank", 0), alpha=8)).train()
    trainer = SupervisedTrainer(
        "sft", model, BLOCKS, partial(collate, block_size=24, pad_token_id=1), next_token_loss, OPTIM, seed=run.seed,
        precision="float32", state=run.state, strategy=strategy,
    )  # fmt: skip
    killed = run.state / "killed"

    def before_a_pass(*_: Any) -> None:
        if len(trainer.losses) == given.get("leave_at"):
            raise LeftError
        if len(trainer.losses) == given.get("kill_at") and strategy.rank == given["kill_rank"] and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(before_a_pass)
    trainer.train()
    strategy.largest(0)  # the first worker has written its digests
    found = {"losses": trainer.losses, "weights": digest(strategy.weights().values())}
    return found | {"data": [row["data"] for row in read_rows(run.state / LIVE)]}
