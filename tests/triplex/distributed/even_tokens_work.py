"""The other part of the tests of launching: a policy that learns to say even tokens, and what each worker has seen."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tests.triplex.rl.even_tokens import HELD_OUT, OWN, PROMPTS, SHARED, TRAIN, even_share
from triplex.distributed.strategy import Strategy
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.loading import load_causal_lm
from triplex.models.policy import Policy
from triplex.models.value import ValueHead, ValueNetwork
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.composite import CompositeReward, Part
from triplex.rl.algorithms import ALGORITHMS
from triplex.rl.batch import Batch
from triplex.rl.callbacks import Callback
from triplex.rl.config import TrainConfig
from triplex.rl.trainer import Trainer
from triplex.runs.digests import digest
from triplex.runs.errors import InputError
from triplex.runs.stage import Run


class Watch(Callback):
    """Keeps what was sampled; dies, or asks the stage to end, once, where the test says."""

    def __init__(self, given: dict[str, Any], run: Run, rank: int) -> None:
        self.ids: list[str] = []
        self.given, self.run, self.rank = given, run, rank

    def on_rollout(self, trainer: Trainer, step: int, batch: Batch) -> None:
        self.ids.append(digest([batch.response_ids, batch.response_mask]))
        if self.given.get("wrong_at") == step and self.rank == 1:
            raise InputError("the test", "something is wrong", "mend it")
        if self.given.get("fail_at") == step and self.rank == 1:
            raise LookupError("nobody has thought of this")
        self._once("kill", self.given.get("kill_rank"), os.getpid(), signal.SIGKILL, step)
        self._once("stop", 0, self.given.get("stage", 0), signal.SIGTERM, step)
        if "stop_at" in self.given:
            time.sleep(0.2)  # the stage has time to tell its workers

    def _once(self, what: str, rank: int | None, process: int, number: int, step: int) -> None:
        marker = self.run.state / what
        if self.given.get(f"{what}_at") == step and self.rank == rank and not marker.exists():
            marker.touch()
            os.kill(process, number)


class Likelihood:
    """A reward by a network, in passes so small that one worker makes more of them than the other."""

    def __init__(self, folder: Path) -> None:
        self._scorer = FrozenScorer(*load_causal_lm(folder), max_tokens_per_batch=40)
        self.model = self._scorer.model

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], *_: Any, **columns: Any) -> list[float]:
        return (-self._scorer.level_nats(prompts, completions, strict_boundary=False)[:, 0]).tolist()


def train(given: dict[str, Any], run: Run, strategy: Strategy) -> dict[str, Any]:
    name, folder = given["algorithm"], Path(given["model"])
    make, config = ALGORITHMS[name]
    model, tokenizer = load_causal_lm(folder)
    lm, reference = HuggingFaceLM(model, tokenizer), HuggingFaceLM(*load_causal_lm(folder))
    lm.eos_ids = tuple(range(20, 30))  # so that responses differ in length
    value = None
    if name == "ppo":
        value = ValueNetwork.from_policy(lm) if given.get("network") else ValueHead(lm.hidden_size)
    watch, parts = Watch(given, run, strategy.rank), {"even": Part(even_share)}
    if given.get("scored"):
        parts["likelihood"] = Part(Likelihood(folder), weight=0.1)
    trainer = Trainer(
        TrainConfig.model_validate(TRAIN | given["train"]), make(config.model_validate(SHARED | OWN[name])),
        Policy(lm, value), reference, tokenizer, CompositeReward(parts), PROMPTS, HELD_OUT, run, callbacks=[watch],
        strategy=strategy,
    )  # fmt: skip
    trainer.train()
    found = {"metrics": trainer.metrics, "weights": digest(strategy.weights().values()), "ids": watch.ids}
    scorers = [part.reward.model for part in parts.values() if isinstance(part.reward, Likelihood)]
    return found | {"held": [own_weights(network) for network in (reference, *scorers)]}


def own_weights(frozen: nn.Module) -> int:
    """Those that this worker holds of it."""
    return sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in frozen.parameters())
