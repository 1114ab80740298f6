"""A training run's metrics in Trackio, a tracker that keeps them on this machine."""

import os
from typing import TYPE_CHECKING, Any

from triplex.rl.callbacks import Callback
from triplex.runs.errors import InputError

if TYPE_CHECKING:
    from triplex.rl.trainer import Trainer


class Trackio(Callback):
    """Run `name` of Trackio's `project`, of a DVC experiment EXPERIMENT/`name`; its values are named as the metrics.

    InputError without the package. The run is written anew from its first step at every start, from the rows of the
    trainer, so that after a resume no step is shown twice. It is sent nowhere unless Trackio's own variables say so.
    """

    def __init__(self, project: str, name: str) -> None:
        try:
            import trackio
        except ImportError as error:
            what, remedy = f"the package trackio is missing ({error})", "pip install 'triplex[trackio]'"
            raise InputError(f"Trackio project {project}", what, remedy) from error
        experiment = os.environ.get("DVC_EXP_NAME")
        self.project, self.name = project, f"{experiment}/{name}" if experiment else name
        self._trackio = trackio

    def on_train_begin(self, trainer: "Trainer", first_step: int) -> None:
        run = self._trackio.init(self.project, self.name, embed=False, auto_log_cpu=False, auto_log_gpu=False)
        for earlier in self._trackio.api.Runs(self.project):
            if earlier.name == self.name and earlier.id != run.id:
                earlier.delete()
        for row in trainer.metrics:
            self._log(row)

    def on_step_end(self, trainer: "Trainer", step: int, metrics: dict[str, Any]) -> None:
        self._log(metrics)

    def on_train_end(self, trainer: "Trainer") -> None:
        self._trackio.finish()

    def _log(self, metrics: dict[str, Any]) -> None:
        values = {name: value for name, value in metrics.items() if name != "step" and value is not None}
        self._trackio.log(values, step=metrics["step"])
