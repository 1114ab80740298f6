"""What looks on while a policy trains, and may end it: the calls a callback gets, progress, warnings, a stop on KL."""

import statistics
import sys
import weakref
from typing import TYPE_CHECKING, Any

from triplex.rl.health import Health
from triplex.runs.progress import StepProgress

if TYPE_CHECKING:
    from triplex.rl.batch import Batch
    from triplex.rl.trainer import Trainer


class Callback:
    """The moments of a training run; a subclass takes those that it needs.

    The trainer calls its callbacks in the order of its list. They are given the trainer itself: what they change
    there changes the run, and `trainer.stop(reason)` ends it after the step. `step` counts from 0.
    """

    def on_train_begin(self, trainer: "Trainer", first_step: int) -> None:
        """Before the first step; after a resume `trainer.metrics` holds the rows of the steps before `first_step`."""

    def on_step_begin(self, trainer: "Trainer", step: int) -> None:
        """Before anything is sampled."""

    def on_rollout(self, trainer: "Trainer", step: int, batch: "Batch") -> None:
        """After sampling and scoring, before the policy learns from `batch`."""

    def on_step_end(self, trainer: "Trainer", step: int, metrics: dict[str, Any]) -> None:
        """After the step, and after on_evaluate; `metrics` is the last of `trainer.metrics`."""

    def on_evaluate(self, trainer: "Trainer", step: int, metrics: dict[str, Any]) -> None:
        """After the policy, as it is after `step`, answered held-out prompts: `eval/...` stands in the step's row."""

    def on_checkpoint(self, trainer: "Trainer", step: int) -> None:
        """After the state in which `step` is done was saved."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """After the last step, also where a callback ended the run; not after an error."""


class Progress(Callback):
    """A bar with the time left on a terminal, a line every few seconds elsewhere; reward, KL and speed beside it."""

    def on_train_begin(self, trainer: "Trainer", first_step: int) -> None:
        self._progress = StepProgress(trainer.run.name, trainer.config.num_steps, done=first_step).__enter__()
        # an error skips on_train_end, and a bar that nobody ends leaves the terminal without a cursor
        self._end = weakref.finalize(self, self._progress.__exit__, None, None, None)

    def on_step_end(self, trainer: "Trainer", step: int, metrics: dict[str, Any]) -> None:
        num_tokens = round(metrics["completions/mean_length"] * trainer.config.batch_size)
        self._progress.advance(num_tokens=num_tokens, reward=metrics["reward"], kl=metrics["kl"])

    def on_train_end(self, trainer: "Trainer") -> None:
        self._end()


class HealthChecks(Callback):
    """Warnings of `health` on stderr, after the step that gave them; a resumed run does not repeat those before it."""

    health: Health

    def on_train_begin(self, trainer: "Trainer", first_step: int) -> None:
        algorithm = trainer.algorithm.config
        self.health = Health(algorithm.num_epochs * algorithm.num_minibatches, trainer.metrics)

    def on_step_end(self, trainer: "Trainer", step: int, metrics: dict[str, Any]) -> None:
        for warning in self.health.look(trainer.metrics):
            print(f"warning: {trainer.run.name} step {warning.step}: {warning.text}", file=sys.stderr, flush=True)


class EarlyStopOnKL(Callback):
    """Ends the run when the mean KL of the last `window_size` steps is above `max_kl`, in nats per token.

    A mean, because the KL of one batch is noisy: one bad step ends nothing. Before `window_size` steps there is none.
    The decision depends on `trainer.metrics` alone, so a resumed run ends where an uninterrupted one does.
    """

    def __init__(self, max_kl: float, window_size: int = 5) -> None:
        self.max_kl, self.window_size = max_kl, window_size

    def on_train_begin(self, trainer: "Trainer", first_step: int) -> None:
        self._stop_where_too_far(trainer)  # the checkpoint may be that of the very step that ended the run

    def on_step_end(self, trainer: "Trainer", step: int, metrics: dict[str, Any]) -> None:
        self._stop_where_too_far(trainer)

    def _stop_where_too_far(self, trainer: "Trainer") -> None:
        last = [row["kl"] for row in trainer.metrics[-self.window_size :]]
        if len(last) == self.window_size and (mean := statistics.fmean(last)) > self.max_kl:
            trainer.stop(
                f"KL {mean:.3g} nats per token, the mean of the last {self.window_size} steps, is above "
                f"{self.max_kl:g}; raise train.kl_coef or lower the learning rate to go further"
            )
