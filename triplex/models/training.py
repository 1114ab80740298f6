"""Gradient descent on batches of a supervised loss, by transformers' Trainer: checkpoints, resume."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from triplex.models.digests import Digests
from triplex.models.optim import OptimConfig
from triplex.runs import interrupt
from triplex.runs.checkpoint import newest, write_checkpoint
from triplex.runs.progress import StepProgress


class ShowProgress(TrainerCallback):
    """The steps of any Trainer and their loss as `StepProgress`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown: dict[str, float] = {}  # nothing before the first loss is known

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress = StepProgress(self.name, state.max_steps, done=state.global_step).__enter__()
        # an interrupt skips on_train_end, and a bar that nobody ends leaves the terminal without a cursor
        self._end = weakref.finalize(self, self.progress.__exit__, None, None, None)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.shown |= {key: value for key, value in kwargs["logs"].items() if key == "loss"}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.progress.advance(state.global_step - self.progress.done, **self.shown)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._end()


class WithCheckpoints:
    """A transformers Trainer whose checkpoints are ours; a class is derived from this one first, then from Trainer."""

    _folder = Path()  # which transformers makes its own folder in

    def _save_checkpoint(self, *arguments: Any) -> None:
        """What transformers writes in place, written aside and put into a folder that vouches for it."""
        trainer: Any = self
        with write_checkpoint(Path(trainer.args.output_dir), trainer.state.global_step) as self._folder:
            super()._save_checkpoint(*arguments)  # type: ignore[misc]
            (own,) = self._folder.iterdir()
            for path in own.iterdir():
                path.rename(self._folder / path.name)
            own.rmdir()

    def _get_output_dir(self, trial: Any) -> str:
        """Asked for while saving, and once more at the end, where nothing is done with it."""
        return str(self._folder)


class SupervisedTrainer(WithCheckpoints, Trainer):
    """transformers' Trainer with our checkpoints."""


class EndWhenAsked(TrainerCallback):
    """Saves and ends where the process has been asked to, every `period` optimiser steps."""

    def __init__(self, period: int) -> None:
        self.period = period

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if interrupt.requested() and state.global_step % self.period == 0:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if asked := interrupt.requested():
            raise interrupt.Interrupted(asked)


def train_from_newest(trainer: Any, state: Path, period: int = 1) -> None:
    """All steps of a `WithCheckpoints`, from the newest checkpoint in `state` that verifies.

    Where the process is asked to end it does so after a checkpoint, at the end of `period` optimiser steps.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EndWhenAsked(period))  # the last one: the others hear of the checkpoint before it ends the run
    checkpoint = newest(state)
    with interrupt.deferred():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def train_supervised(
    name: str,
    model: Any,
    rows: Sequence[Any],
    collate: Callable[[list[Any]], dict[str, Tensor]],
    config: OptimConfig,
    *,
    seed: int,
    precision: str,
    state: Path,
) -> float:
    """Train `model` in place and return the mean loss of the last tenth of the steps.

    `state` holds the checkpoints; training goes on from the newest one there. Rows are shuffled anew each epoch by
    `seed`; the last, smaller batch is kept.
    """
    arguments = TrainingArguments(**arguments_of(config, len(rows), seed=seed, precision=precision, state=state))
    callbacks: list[TrainerCallback] = [ShowProgress(name), Digests(name, state)]
    trainer = SupervisedTrainer(model, arguments, data_collator=collate, train_dataset=list(rows), callbacks=callbacks)
    train_from_newest(trainer, state)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def arguments_of(config: OptimConfig, num_rows: int, *, seed: int, precision: str, state: Path) -> dict[str, Any]:
    """What TrainingArguments, and every class derived from it, is given to descend as `config` says on `num_rows`."""
    steps_an_epoch = -(-num_rows // config.batch_size)
    return {
        "output_dir": str(state),
        "num_train_epochs": config.num_epochs,
        "per_device_train_batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": int(config.warmup_frac * steps_an_epoch * config.num_epochs),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "bf16": precision == "bfloat16",
        "seed": seed % 2**32,
        "data_seed": seed % 2**32,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every,
        "logging_steps": 1,  # a checkpoint does not keep the sum of losses since the last log
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "use_cpu": not torch.cuda.is_available(),
        "log_level": "error",
    }
