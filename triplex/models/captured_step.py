"""A decoding step whose tensors stay where they are, so that on CUDA it is captured once and replayed as one graph.

Launching a small model's kernels one by one from Python takes longer than the kernels; a replay is one launch. What
grows from step to step, the keys that are seen, does so by a mask over buffers that are read in whole.

Legend: N rows still decoded, S positions in all, H width of the states.
"""

from collections.abc import Callable

import torch
from torch import Tensor

#: kinds of devices on which steps are fixed; capturing itself is CUDA's
DEVICES = {"cuda"}


class CapturedStep:
    """`step(tokens)` (N,) -> (N, H), the states after one more token in each row.

    `forward(ids (N, 1), mask (N, 1, 1, S), positions (N, 1))` writes keys and values at `place`, a tensor (1,), and has
    nothing that waits for the device. `mask` (N, S) bool is True where the prompts' tokens are.
    """

    def __init__(
        self, forward: Callable[[Tensor, Tensor, Tensor], Tensor], mask: Tensor, positions: Tensor, place: Tensor
    ) -> None:
        self._forward, self._mask, self._positions, self._place = forward, mask, positions, place
        self._ids = torch.zeros_like(positions)
        self._graph = self._captured() if mask.device.type == "cuda" else None

    def __call__(self, tokens: Tensor) -> Tensor:
        """The states stand in the same memory each time: the next call writes over them."""
        self._ids[:, 0] = tokens
        if self._graph:
            self._graph.replay()
        else:
            self._states = self.run()
        self._place += 1
        self._positions += 1
        return self._states

    def run(self) -> Tensor:
        """(N, H): the step itself. A second time it does the same again."""
        self._mask.index_fill_(1, self._place, True)
        return self._forward(self._ids, self._mask[:, None, None], self._positions)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The graph of `run`, which is run once before: libraries set themselves up in a first call."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self.run()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._states = self.run()
        return graph
