"""Decoding with a transformers model: prompts read once, keys and values kept in buffers that do not grow.

Legend: B prompts, P prompt, G responses a prompt, N rows still decoded, K key heads, S positions in all, D their width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, get_layer_types_and_kwargs

from triplex.models import captured_step
from triplex.models.attention import NAME
from triplex.models.captured_step import CapturedStep
from triplex.models.causal import position_ids
from triplex.runs.errors import InputError

#: kinds of layers that keep keys and values
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


class BufferedLayer(CacheLayerMixin):
    """Keys and values of one layer: those of the prompts as they come, then in buffers with room for all new tokens.

    Every position stays, in a layer with a sliding window too: what the window hides, the model's own mask hides.
    """

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.place: Tensor | None = None  # (1,) where a captured step writes; it reads the buffers in whole

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the prompts' (B, K, P, D)."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and all values up to the new ones (N, K, new, D), which are written behind the others."""
        if self.place is not None:
            self.keys.index_copy_(2, self.place, key_states)
            self.values.index_copy_(2, self.place, value_states)
            return self.keys, self.values
        start, self.length = self.length, self.length + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def make_room(self, group_size: int, max_new_tokens: int) -> None:
        """Copy each prompt G times into buffers (B * G, K, P + max_new_tokens, D)."""

        def copied(prompts: Tensor) -> Tensor:
            num, heads, length, width = prompts.shape
            buffer = prompts.new_zeros(num * group_size, heads, length + max_new_tokens, width)
            buffer.unflatten(0, (num, group_size))[:, :, :, :length] = prompts[:, None]
            return buffer

        self.keys, self.values = copied(self.keys), copied(self.values)

    def keep(self, rows: Tensor) -> None:
        """Move these rows (n,), increasing, to the front of the buffers and forget the others."""

        def moved(buffer: Tensor) -> Tensor:
            filled = buffer[:, :, : self.length].index_select(0, rows)
            buffer[: len(rows), :, : self.length] = filled
            return buffer[: len(rows)]

        self.keys, self.values = moved(self.keys), moved(self.values)

    def get_seq_length(self) -> int:
        """Positions that are filled."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(positions that the next call sees, the first of them)."""
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        """No limit that transformers has to know of."""
        return -1


class HuggingFaceDecoder:
    """The `Decoder` of a transformers causal language model whose layers all attend; else an InputError.

    A mask is built once for all steps. Where no prompt is padded the model needs none; where a window or a chunk hides
    positions, the model makes its own, step by step, from the padding. On CUDA steps are captured (`CapturedStep`)
    where one mask serves them all.
    """

    def __init__(
        self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor, group_size: int, max_new_tokens: int
    ) -> None:
        config = model.config.get_text_config(decoder=True)
        kinds, limits = get_layer_types_and_kwargs(config)
        if not set(kinds) <= ATTENTION:
            what = f"{type(model).__name__} has layers of kind {sorted(set(kinds) - ATTENTION)}, which keep no keys"
            raise InputError(model.config.name_or_path or "the model", what, "take a model whose layers all attend")
        self._trunk = model.base_model
        self._ids, self._prompt_mask = prompt_ids, prompt_mask
        self._group_size, self._max_new_tokens = group_size, max_new_tokens
        self._hidden_by_none = prompt_ids.shape[1] + max_new_tokens <= limits.get("sliding_window", float("inf"))
        self._takes_whole_mask = config._attn_implementation in ("sdpa", NAME) and self._hidden_by_none
        self._layers = [BufferedLayer() for _ in kinds]
        self._cache = Cache(layers=list(self._layers))
        self._num_steps = 0
        self._captures = self._takes_whole_mask and prompt_ids.device.type in captured_step.DEVICES
        self._captured: CapturedStep | None = None

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """(B * G, H) states after each prompt."""
        states = self._forward(self._ids, self._prompt_mask, position_ids(self._prompt_mask))
        for layer in self._layers:
            layer.make_room(self._group_size, self._max_new_tokens)
        lengths = self._prompt_mask.sum(1).repeat_interleave(self._group_size)
        new = torch.arange(self._max_new_tokens, device=lengths.device)
        self._positions = lengths[:, None] + new  # (N, R)
        mask = self._prompt_mask.repeat_interleave(self._group_size, 0)
        self._mask = torch.cat([mask, mask.new_ones(len(mask), self._max_new_tokens)], 1)  # (N, S)
        self._look_for_padding()
        return states.repeat_interleave(self._group_size, 0)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """(N, H) states after one more token (N,) in each row."""
        place = self._num_steps
        self._num_steps += 1
        if self._captures:
            self._captured = self._captured or self._capture(place)
            return self._captured(tokens)
        seen = None  # all, which transformers then need not find out
        if self._is_padded or not self._hidden_by_none:
            seen = self._mask[:, : self._ids.shape[1] + self._num_steps]
            seen = seen[:, None, None] if self._takes_whole_mask else seen
        return self._forward(tokens[:, None], seen, self._positions[:, place : place + 1])

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        for layer in self._layers:
            layer.keep(rows)
        self._mask = self._mask[rows]
        self._captured = None
        if self._is_padded:
            self._positions = self._positions[rows]
            self._look_for_padding()

    def _capture(self, num_steps: int) -> CapturedStep:
        """The steps after `num_steps`, of the rows that are there."""
        start, num_rows = self._ids.shape[1] + num_steps, len(self._mask)
        place = torch.tensor([start], device=self._mask.device)
        for layer in self._layers:
            layer.place, layer.length = place, self._mask.shape[1]
        seen = self._mask.clone()
        seen[:, start:] = False
        positions = self._positions[:, num_steps : num_steps + 1].expand(num_rows, -1).clone()
        return CapturedStep(self._forward, seen, positions, place)

    def _look_for_padding(self) -> None:
        self._is_padded = not bool(self._mask.all())
        if not self._is_padded:
            self._positions = self._positions[:1]  # those of every row

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        return self._trunk(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True
        ).last_hidden_state[:, -1]
