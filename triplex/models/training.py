"""Supervised training: epochs of shuffled batches, AdamW, a warm-up and a cosine; resumes exactly, on any workers.

Randomness is counter-based: an epoch's order and a step's dropout are functions of (seed, epoch or step), so that
weights, moments and the number of steps done are all of a run's state.
"""

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from triplex.distributed.strategy import Strategy
from triplex.models.optim import OptimConfig
from triplex.runs import interrupt
from triplex.runs.checkpoint import identity_of, newest, write_checkpoint
from triplex.runs.digests import DigestRows, Row, digest
from triplex.runs.errors import InputError
from triplex.runs.progress import StepProgress
from triplex.runs.seeds import derive_seed

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"

Batch = dict[str, Tensor]  # the first dimension of each is the row
#: (sum of the losses of a batch's rows, how many losses these are), 0-d; given what stands for the model, and a batch
Loss = Callable[[Any, Batch], tuple[Tensor, Tensor]]


class SupervisedTrainer:
    """One model learning from rows, in place, in the mode (training, evaluation) that it is in."""

    def __init__(
        self, name: str, model: nn.Module, rows: Sequence[Any], collate: Callable[[list[Any]], Batch], loss: Loss,
        config: OptimConfig, *, seed: int, precision: str, state: Path, strategy: Strategy | None = None,
    ) -> None:  # fmt: skip
        """A step descends on the mean loss of `batch_size` rows; an epoch's last, smaller batch is kept.

        `state` holds the checkpoints and digests. Weights are float32; with precision bfloat16 forward passes compute
        in that. Of several workers each takes its part of a batch's rows, and the first one writes.
        """
        self.name, self.model, self.rows, self.collate, self.loss = name, model, rows, collate, loss
        self.config, self.seed, self.precision, self.state = config, seed, precision, state
        self.strategy = strategy or Strategy()
        self.device = next(model.parameters()).device
        self.batches_an_epoch = -(-len(rows) // config.batch_size)
        self.num_steps = self.batches_an_epoch * config.num_epochs
        self.optimizer = make_optimizer(model, config)
        self._learner = self.strategy.prepare(model, self.optimizer, config.max_grad_norm)
        self.losses: list[float] = []  # of the steps done
        self._digests = DigestRows(state)
        self._order = -1, torch.empty(0)  # an epoch and its permutation

    def train(self) -> float:
        """All steps, from the newest checkpoint if there is one; returns the mean loss of the last tenth of them.

        `Interrupted`, after a checkpoint, when the process has been asked to end. InputError for a checkpoint of
        another run, and for a loss that is not finite.
        """
        with interrupt.deferred(), ExitStack() as stack:
            self._load()
            progress = None
            if self.strategy.is_first:
                self._digests.resume(len(self.losses))
                progress = stack.enter_context(StepProgress(self.name, self.num_steps, done=len(self.losses)))
            for step in range(len(self.losses), self.num_steps):
                learnt = self._step(step)
                asked = self.strategy.largest(interrupt.requested() or 0)
                if (step + 1) % self.config.checkpoint_every == 0 or asked:
                    self._save()
                if progress:
                    progress.advance(num_tokens=learnt, loss=self.losses[-1])
                if asked:
                    raise interrupt.Interrupted(asked)
        tail = self.losses[-max(1, self.num_steps // 10) :]
        return sum(tail) / len(tail)

    def _step(self, step: int) -> int:
        """One descent on a batch, to which each worker adds the gradient of its part; returns the batch's tokens."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        batch = {name: tensor.to(self.device) for name, tensor in self.collate(self._batch(step)).items()}
        num = len(next(iter(batch.values())))
        own = self.strategy.share(num)
        counts = own.stop > own.start  # a worker without a row goes through the first one, since all pass alike
        part = {name: tensor[own if counts else slice(1)] for name, tensor in batch.items()}
        torch.manual_seed(derive_seed(self.seed, "dropout", step, self.strategy.rank))
        self.strategy.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            total, count = self.loss(self._learner, part)
        found = self.strategy.total({"count": count * counts})
        loss = total * counts / found["count"]
        self.strategy.backward(loss)
        norm = self.strategy.step()
        self.losses.append(self.strategy.total({"loss": loss.detach()})["loss"].item())
        if not math.isfinite(self.losses[-1]) or not torch.isfinite(norm):
            what = f"loss {self.losses[-1]:.4g}, gradient norm {norm:.4g}"
            raise InputError(f"{self.name} step {step}", what, "lower the learning rate, or look at the texts")
        if self.strategy.is_first:
            self._digests.append(self._digest(step, batch))
        return num_tokens(batch)

    def _batch(self, step: int) -> list[Any]:
        """The rows of a step: an epoch is a permutation, cut."""
        epoch, place = divmod(step, self.batches_an_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            self._order = epoch, torch.randperm(len(self.rows), generator=generator)
        chosen = self._order[1].split(self.config.batch_size)[place]
        return [self.rows[i] for i in chosen.tolist()]

    def _learning_rate(self, step: int) -> float:
        """Linear up to the configured one, then a cosine that would be 0 after the last step."""
        warmup = int(self.config.warmup_frac * self.num_steps)
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        return self.config.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (self.num_steps - warmup))) / 2

    def _digest(self, step: int, batch: Batch) -> Row:
        """What the step read, computed and left behind; what is divided among workers has no digest."""
        row: Row = {"part": self.name, "step": step, "data": digest(batch[name] for name in sorted(batch))}
        row["loss"] = self.losses[-1]
        learning = [p for p in self.model.parameters() if p.requires_grad]
        if self.strategy.zero_stage == 0:
            row["gradients"] = digest(p.grad for p in learning)
        if self.strategy.zero_stage < 3:
            row["weights"] = digest(learning)
        return row

    def _identity(self) -> dict[str, Any]:
        """What a run must share with a checkpoint to go on from it."""
        with self.strategy.whole():
            frozen = digest(p for p in self.model.parameters() if not p.requires_grad)
        return {"training": self.name, "seed": self.seed, "rows": len(self.rows), "frozen weights": frozen}

    def _save(self) -> None:
        """Weights and moments in whole, however many workers hold them; the others wait for the one that writes."""
        files, identity = {MODEL: self.strategy.weights(), OPTIMIZER: self.strategy.moments()}, self._identity()
        if self.strategy.is_first:
            num_bytes = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
            with write_checkpoint(self.state, len(self.losses), identity=identity, num_bytes=num_bytes) as folder:
                for name, tensors in files.items():
                    save_file(tensors, folder / name)
                (folder / STATE).write_text(json.dumps({"losses": self.losses}), encoding="utf-8")
        self.strategy.largest(0)

    def _load(self) -> None:
        """The newest state of this training that verifies, if any."""
        (path, *_) = self.strategy.gather_lists([newest(self.state) if self.strategy.is_first else None])
        if path is None:
            return
        there = identity_of(path)
        for name, value in self._identity().items():
            if there.get(name) != value:
                what = f"its {name} is {there.get(name)}, that of this run is {value}"
                raise InputError(path, what, f"remove {self.state} to start again")
        self.strategy.load(load_file(path / MODEL), load_file(path / OPTIMIZER))
        self.losses = json.loads((path / STATE).read_text(encoding="utf-8"))["losses"]
        if self.strategy.is_first:
            print(f"{self.name}: goes on after step {len(self.losses)} of {self.num_steps}", flush=True)


def num_tokens(batch: Batch) -> int:
    """Of a batch, without its padding where it has a mask; packed blocks have next to none."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over what can learn, of which matrices decay; biases and the gains of norms do not."""
    learning = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in learning if p.dim() > 1], [p for p in learning if p.dim() < 2]
    groups = [
        {"params": those, "weight_decay": decay}
        for those, decay in ((matrices, config.weight_decay), (vectors, 0.0)) if those
    ]  # fmt: skip
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
