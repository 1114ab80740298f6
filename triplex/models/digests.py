"""A row of digests for each step of supervised training, from the batch to the weights at its end."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from triplex.runs.digests import DigestRows, Row, digest


class Digests(TrainerCallback):
    """`digests.jsonl` in the state folder of any of transformers' trainers, of the steps that are done.

    `data` are the tensors that the model was given, `loss` is the number itself, where the model computes one from
    labels; `gradients` are clipped. `part` tells the trainings of one stage from each other.
    """

    def __init__(self, part: str, state: Path) -> None:
        self._part, self._rows = part, DigestRows(state)
        self._seen: Row = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        self._rows.resume(state.global_step)
        self._model: nn.Module = kw["model"]
        self._hook = self._model.register_forward_hook(self._look, with_kwargs=True)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._seen["gradients"] = digest(p.grad for p in self._learning())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        row = {"part": self._part, "step": state.global_step - 1, **self._seen, "weights": digest(self._learning())}
        self._rows.append(row)
        self._seen = {}

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._hook.remove()

    def _learning(self) -> list[nn.Parameter]:
        return [p for p in self._model.parameters() if p.requires_grad]

    def _look(self, module: nn.Module, _: Any, given: dict[str, Any], output: Any) -> None:
        """After a forward pass: what went in, and the loss that came out."""
        tensors = [given[name] for name in sorted(given) if isinstance(given[name], Tensor)]
        self._seen["data"] = digest(tensors)
        loss = getattr(output, "loss", None)
        if loss is not None:
            self._seen["loss"] = loss.item()
