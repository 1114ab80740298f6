"""Checkpoints of TRL's trainers: what transformers writes, in folders that vouch for their content."""

from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from triplex.runs import interrupt
from triplex.runs.checkpoint import newest, write_checkpoint


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


def train_from_newest(trainer: Any, state: Path, period: int) -> None:
    """All steps of a `WithCheckpoints`, from the newest checkpoint in `state` that verifies.

    Where the process is asked to end it does so after a checkpoint, at the end of `period` optimiser steps.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EndWhenAsked(period))  # the last one: the others hear of the checkpoint before it ends the run
    checkpoint = newest(state)
    with interrupt.deferred():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
