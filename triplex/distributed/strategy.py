"""How workers share a training step. Each has every row of the batch, works on its part, and tells the others.

The one process of `executor: local` is the base class; `Replicated` has the weights on every worker and adds their
gradients up. Sums over rows are sums over workers of sums over their rows: no worker knows a mean of its own.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn

Whole = Callable[[], AbstractContextManager[None]]  # inside, a divided module is whole


class Strategy:
    """One process with the whole model."""

    rank = 0
    num_workers = 1
    #: what each worker holds in whole: 0 everything, 1 no moments, 2 no gradients either, 3 no weights either
    zero_stage = 0

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> Any:
        """Take what descends; returns what to call in the place of `module` where gradients are wanted."""
        self.module, self.optimizer, self.max_grad_norm = module, optimizer, max_grad_norm
        return module

    def divide(self, frozen: nn.Module, called: Iterable[str]) -> None:
        """Keep this worker's part alone of a module that does not learn; `called` are the methods that run it."""

    def divide_at_rest(self, frozen: nn.Module) -> Whole:
        """Keep this worker's part alone of a module that does not learn, but inside of what is returned, which all
        workers enter and leave together; there each runs it as often as it likes."""
        return nullcontext

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that writes files."""
        return self.rank == 0

    def share(self, num: int, *, worker: int | None = None) -> slice:
        """This worker's (or another's) part of `num` things in a row; parts differ by one thing at most."""
        rank = self.rank if worker is None else worker
        return slice(num * rank // self.num_workers, num * (rank + 1) // self.num_workers)

    def gather(self, tensors: list[Tensor], num: int) -> list[Tensor]:
        """All `num` rows of each tensor, given those of this worker's share, on every worker."""
        return tensors

    def gather_lists(self, items: list[Any]) -> list[Any]:
        """The workers' lists one after the other."""
        return items

    def total(self, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of each number (0-d) over the workers."""
        return numbers

    def largest(self, number: int) -> int:
        """Over the workers."""
        return number

    def whole(self) -> AbstractContextManager[Any]:
        """Inside, this worker can read and run the module without the others."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of one pass to those before it."""
        loss.backward()

    def step(self) -> Tensor:
        """Clip the gradients' norm over all passes and workers, descend, forget them; the norm before clipping (0-d).

        Where the norm is not finite the weights stay as they are.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._learning(), self.max_grad_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        return norm

    def zero_grad(self) -> None:
        """Begin a descent."""
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        """What descends, in whole, by name."""
        return {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

    def moments(self) -> dict[str, Tensor]:
        """What the optimiser remembers, in whole, on the first worker: by the parameter's number and its own name."""
        state = self.optimizer.state_dict()["state"]
        return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Put back what `weights` and `moments` gave, on this or another number of workers."""
        learning = self.weights()
        assert weights.keys() == learning.keys()
        for name, tensor in learning.items():
            tensor.copy_(weights[name])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})

    def _learning(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


class Replicated(Strategy):
    """The weights on every worker of torch.distributed's group, gradients added up before each descent."""

    def __init__(self) -> None:
        self.rank, self.num_workers = distributed.get_rank(), distributed.get_world_size()

    def gather(self, tensors: list[Tensor], num: int) -> list[Tensor]:
        """As bytes, in one message; shares are padded to the largest of them."""
        sizes = [len(range(num)[self.share(num, worker=w)]) for w in range(self.num_workers)]
        as_bytes = [tensor.unsqueeze(-1).flatten(1).contiguous().view(torch.uint8) for tensor in tensors]
        sent = torch.cat(as_bytes, 1)
        sent = torch.cat([sent, sent.new_zeros(max(sizes) - len(sent), sent.shape[1])])
        received = [torch.empty_like(sent) for _ in sizes]
        distributed.all_gather(received, sent)
        found = torch.cat([part[:size] for part, size in zip(received, sizes, strict=True)])
        parts = found.split([each.shape[1] for each in as_bytes], 1)
        return [
            part.clone(memory_format=torch.contiguous_format).view(tensor.dtype).view(num, *tensor.shape[1:])
            for part, tensor in zip(parts, tensors, strict=True)
        ]

    def gather_lists(self, items: list[Any]) -> list[Any]:
        """By torch's own encoding of objects, between processes of one job."""
        received: list[Any] = [None] * self.num_workers
        distributed.all_gather_object(received, items)
        return [item for each in received for item in each]

    def total(self, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
        """In one message."""
        names = sorted(numbers)
        summed = torch.stack([numbers[name].detach().float() for name in names])
        distributed.all_reduce(summed)
        return dict(zip(names, summed, strict=True))

    def largest(self, number: int) -> int:
        """Over the workers."""
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def step(self) -> Tensor:
        """As alone, after the gradients of all have been added up."""
        add_up(p.grad for p in self._learning() if p.grad is not None)
        return super().step()


def add_up(tensors: Iterable[Tensor]) -> None:
    """The sum over the workers in the place of each tensor, all of them in one message."""
    tensors = list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
