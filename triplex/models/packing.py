"""Tokenised examples into blocks of one length, without one example seeing another."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from triplex.runs.errors import InputError

IGNORED = -100  # a label that the loss leaves out


class Example(NamedTuple):
    """Token ids of prompt and completion; the loss covers the ids from `num_prompt` on."""

    ids: list[int]
    num_prompt: int


def encode_example(tokenizer: Any, prompt: str, completion: str) -> Example:
    """Prompt, completion and the end-of-text token. The two are tokenised apart, as they are when sampling."""
    prompt_ids = tokenizer(prompt)["input_ids"]
    completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return Example([*prompt_ids, *completion_ids, tokenizer.eos_token_id], len(prompt_ids))


def pack(examples: Sequence[Example], block_size: int) -> list[list[Example]]:
    """Best-fit decreasing: examples, longest first, each into the fullest block that still has room.

    Longer examples than a block are cut at its size. The order of equal lengths is the order given.
    """
    blocks: list[list[Example]] = []
    with_room: dict[int, list[int]] = {}  # free tokens -> blocks
    for example in sorted(examples, key=lambda e: -len(e.ids)):
        cut = Example(example.ids[:block_size], example.num_prompt)
        room = next((free for free in range(len(cut.ids), block_size + 1) if with_room.get(free)), None)
        if room is None:
            blocks.append([])
            index, room = len(blocks) - 1, block_size
        else:
            index = with_room[room].pop()
        blocks[index].append(cut)
        with_room.setdefault(room - len(cut.ids), []).append(index)
    return blocks


def collate(blocks: Sequence[Sequence[Example]], block_size: int, pad_token_id: int) -> dict[str, Tensor]:
    """input_ids, position_ids, labels (B, block_size).

    Positions start again at 0 with each example, which is how transformers recognises packed sequences and keeps
    attention inside them; a prompt's labels, and each example's first, are ignored.
    """
    shape = (len(blocks), block_size)
    input_ids = torch.full(shape, pad_token_id)
    position_ids = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, block in enumerate(blocks):
        start = 0
        for ids, num_prompt in block:
            end = start + len(ids)
            input_ids[row, start:end] = torch.tensor(ids)
            position_ids[row, start:end] = torch.arange(len(ids))
            first = start + max(num_prompt, 1)
            labels[row, first:end] = torch.tensor(ids[max(num_prompt, 1) :], dtype=torch.long)
            start = end
        position_ids[row, start:] = torch.arange(block_size - start)
    return {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}


def next_token_loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(sum over the labels of a `collate`d batch of -log p of each given what is before it, their number)."""
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    labels = pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)  # what the logits of a place are for is the next token
    total = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total, (labels != IGNORED).sum()


@torch.no_grad()
def check_packing(model: Any) -> None:
    """InputError for a model that lets one example of a block see another, as OPT, BLOOM and Mamba do."""
    ids = torch.tensor([[0, 0, 2, 3], [1, 1, 2, 3]], device=model.device)
    positions = torch.tensor([[0, 1, 0, 1]], device=model.device).expand(2, -1)
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 2:].float()
    if not torch.allclose(logits[0], logits[1], atol=1e-4):
        what = f"{type(model).__name__} cannot be trained on packed examples: they see one another"
        raise InputError("model", what, "take an architecture such as GPT-2, Llama, Mistral, Qwen or Gemma")
