"""Bradley-Terry training of a preference model, by TRL's RewardTrainer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from triplex.models.digests import Digests
from triplex.models.optim import OptimConfig
from triplex.models.training import ShowProgress, WithCheckpoints, arguments_of, train_from_newest


def train_preference_model(
    name: str,
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Mapping[str, Any]],
    config: OptimConfig,
    *,
    seed: int,
    precision: str,
    state: Path,
) -> None:
    """Train the one-label sequence classifier `model` in place on rows of prompt, chosen and rejected.

    The loss is the mean of -log sigmoid(r(chosen) - r(rejected)) over the pairs of a batch (Bradley and Terry 1952;
    arXiv 2203.02155, eq. 1). Dropout is off, so that both sides of a pair go through the same network. `state` holds
    the checkpoints; training goes on from the newest one there.
    """
    arguments = RewardConfig(
        **arguments_of(config, len(pairs), seed=seed, precision=precision, state=state),
        gradient_checkpointing=False,
        max_length=None,  # TRL would drop long pairs; here they are cut already
    )
    trainer = _QuietTrainer(
        model, arguments, train_dataset=tokenised(tokenizer, pairs), processing_class=tokenizer,
        callbacks=[ShowProgress(name), Digests(name, state)],
    )  # fmt: skip
    train_from_newest(trainer, state)


def tokenised(tokenizer: Any, pairs: Sequence[Mapping[str, Any]]) -> Dataset:
    """`chosen_ids` and `rejected_ids` of prompt + completion, cut as `tokenizer` cuts.

    Done here because TRL would append an end-of-text token, which responses do not have when the reward reads them.
    """
    texts = {side: [pair["prompt"] + pair[side] for pair in pairs] for side in ("chosen", "rejected")}
    return Dataset.from_dict({f"{side}_ids": tokenizer(texts[side], truncation=True)["input_ids"] for side in texts})


class _QuietTrainer(WithCheckpoints, RewardTrainer):
    """RewardTrainer that sends no telemetry and writes no model card beside the checkpoints."""

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *_: Any, **__: Any) -> None:
        pass
