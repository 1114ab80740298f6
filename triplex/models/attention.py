"""Attention over short sequences on a CPU: three matrix products, where torch's blockwise kernel takes twice as long.

Legend: B sequences, H heads, K key heads, Q queries, S keys, D width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "triplex_short"
LONGEST = 128  #: keys; beyond, the blockwise kernel needs less memory and is as fast


def use_short_attention(model: Any) -> None:
    """Let a transformers model that attends by "sdpa" do so by `attend`; what it saves does not tell."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
           scaling: float | None = None, **kwargs: Any) -> tuple[Tensor, None]:  # fmt: skip
    """(B, Q, H, D) of queries (B, H, Q, D) over keys and values (B, K, S, D), as transformers calls its attention.

    By matrix products for few keys, float32, on a CPU; anything else goes to transformers' own "sdpa". A query that
    sees no key, one of padding, gets a finite nothing.
    """
    num_queries, num_keys = query.shape[2], key.shape[2]
    is_causal = kwargs.get("is_causal") is not False and module.is_causal and kwargs.get("position_bias") is None
    is_aligned = attention_mask is not None or num_queries in (1, num_keys)
    is_short = num_keys <= LONGEST and query.device.type == "cpu"
    is_float32 = query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")  # which casts products
    if dropout or not (is_causal and is_aligned and is_short and is_float32):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    groups = query.shape[1] // key.shape[1]
    queries, keys, values = query.flatten(0, 1), *(repeat_kv(x, groups).flatten(0, 1) for x in (key, value))
    scale, hidden = query.shape[-1] ** -0.5 if scaling is None else scaling, torch.finfo(query.dtype).min
    if attention_mask is None and num_queries > 1:  # each query sees the keys up to its own
        above = query.new_full((num_queries, num_keys), hidden).triu(1)
        scores = torch.baddbmm(above, queries, keys.transpose(1, 2), alpha=scale)
    else:
        scores = torch.bmm(queries, keys.transpose(1, 2)) * scale
    if attention_mask is not None:
        scores = scores.unflatten(0, query.shape[:2]).masked_fill(~attention_mask, hidden).flatten(0, 1)
    mixed = torch.bmm(scores.softmax(-1), values)
    return mixed.unflatten(0, query.shape[:2]).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
