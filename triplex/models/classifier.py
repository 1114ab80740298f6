"""Texts through a sequence classifier."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ROWS_A_PASS = 64


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids, cut as `tokenizer` cuts."""
    return tokenizer(list(texts), truncation=True)["input_ids"] if texts else []  # where tokenizers raises


def classifier_batch(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """Token ids padded on the right: positions start at 0 and the head reads the last real token."""
    width = max(map(len, rows))
    mask = torch.arange(width) < torch.tensor([len(ids) for ids in rows])[:, None]
    return {
        "input_ids": torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in rows]),
        "attention_mask": mask.long(),
    }


@torch.no_grad()
def classifier_logits(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """(B, labels) float32 on the CPU; texts of similar length pass together."""
    encoded = encode_texts(tokenizer, texts)
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    found = torch.empty(len(texts), model.config.num_labels)
    for start in range(0, len(order), _ROWS_A_PASS):
        rows = order[start : start + _ROWS_A_PASS]
        batch = classifier_batch([encoded[i] for i in rows], tokenizer.pad_token_id).items()
        found[rows] = model(**{key: value.to(model.device) for key, value in batch}).logits.float().cpu()
    return found
