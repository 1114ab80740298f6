"""Texts through a sequence classifier."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_ROWS_A_PASS = 64


def classifier_batch(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Token ids padded on the right: positions start at 0 and the head reads the last real token."""
    encoded = tokenizer(list(texts), padding=True, padding_side="right", truncation=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


@torch.no_grad()
def classifier_logits(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """(B, labels) float32 on the CPU; texts of similar length pass together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = torch.empty(len(texts), model.config.num_labels)
    for start in range(0, len(order), _ROWS_A_PASS):
        rows = order[start : start + _ROWS_A_PASS]
        batch = classifier_batch(tokenizer, [texts[i] for i in rows]).items()
        found[rows] = model(**{key: value.to(model.device) for key, value in batch}).logits.float().cpu()
    return found
