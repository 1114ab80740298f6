"""The preference model: the base model's trunk with a head, trained on pairs of which one was preferred."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from triplex.distributed.strategy import Strategy
from triplex.models.classifier import classifier_batch, encode_texts
from triplex.models.loading import check_folder, device, load_tokenizer
from triplex.models.training import SupervisedTrainer
from triplex.rewards.preference import PreferenceConfig, PreferenceReward, TrainedPreference
from triplex.rewards.preference_pairs import Pair, held_out, is_tie
from triplex.runs.errors import InputError
from triplex.runs.seeds import derive_seed
from triplex.runs.stage import Run

_SIDES = ("chosen", "rejected")


def pairwise_accuracy(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> float | None:
    """The share of the pairs whose chosen side scores higher, equal scores half; None without pairs."""
    reward = PreferenceReward(model, tokenizer)
    if not pairs:
        return None
    chosen, rejected = (torch.tensor(reward.logits(_texts(pairs, side))) for side in _SIDES)
    return ((chosen > rejected).double() + 0.5 * (chosen == rejected)).mean().item()


def train_preference_model(
    config: PreferenceConfig, precision: str, base: Path, rows: Sequence[Pair], run: Run,
    strategy: Strategy | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """(model with one label, tokenizer), trained by all workers of `strategy` on rows of the preferences table.

    Dropout is off, so that both sides of a pair go through the same network.
    """
    trained = config.model
    assert isinstance(trained, TrainedPreference)
    strategy = strategy or Strategy()
    pairs, _ = held_out(config, rows)
    check_folder(base, "ForCausalLM")
    seed = derive_seed(run.seed, "preference")
    torch.manual_seed(seed)  # draws the head
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32, use_safetensors=True
    )
    tokenizer = _cutting_tokenizer(trained, base, model)
    if strategy.is_first:
        _warn(run, sum(map(is_tie, rows[: trained.num_pairs])), "pairs have equal sides and are left out")
        _warn(run, _num_cut(tokenizer, pairs), f"pairs are above {trained.max_tokens} tokens and lose their beginning")
    chosen, rejected = (encode_texts(tokenizer, _texts(pairs, side)) for side in _SIDES)
    SupervisedTrainer(
        f"{run.name} preference", model.to(device()).eval(), list(zip(chosen, rejected, strict=True)),
        partial(_pair_batch, pad_id=tokenizer.pad_token_id), bradley_terry_loss, trained.optim, seed=seed,
        precision=precision, strategy=strategy,
        state=run.state / "preference",  # the sentiment classifier has its checkpoints in the folder itself
    ).train()  # fmt: skip
    return model, tokenizer


def bradley_terry_loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(sum over the batch's pairs of -log sigmoid(r(chosen) - r(rejected)), their number).

    Bradley and Terry 1952; arXiv 2203.02155, eq. 1. `batch`: input_ids and attention_mask (B, 2, T), chosen first.
    """
    ids, mask = (batch[name].flatten(0, 1) for name in ("input_ids", "attention_mask"))
    chosen, rejected = model(input_ids=ids, attention_mask=mask).logits.float().view(-1, 2).unbind(1)
    return -logsigmoid(chosen - rejected).sum(), torch.tensor(len(chosen), device=chosen.device)


def _pair_batch(pairs: Sequence[tuple[list[int], list[int]]], pad_id: int) -> dict[str, Tensor]:
    """What `bradley_terry_loss` reads."""
    batch = classifier_batch([ids for pair in pairs for ids in pair], pad_id)
    return {name: tensor.unflatten(0, (-1, 2)) for name, tensor in batch.items()}


def _cutting_tokenizer(config: TrainedPreference, base: Path, model: Any) -> Any:
    """The base model's tokenizer, which keeps the last `max_tokens` of a text, in training as in use."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", config.max_tokens)
    if config.max_tokens > positions:
        where = f"params.yaml: reward.preference.model.max_tokens = {config.max_tokens}"
        raise InputError(where, f"the base model has {positions} positions", f"lower it to {positions}")
    tokenizer = load_tokenizer(base, model)
    tokenizer.model_max_length, tokenizer.truncation_side = config.max_tokens, "left"
    return tokenizer


def _num_cut(tokenizer: Any, pairs: Sequence[Pair]) -> int:
    """How many pairs have a side that is longer than `tokenizer` takes."""
    overflows = [
        [bool(encoding.overflowing) for encoding in tokenizer(_texts(pairs, side), truncation=True).encodings]
        for side in _SIDES
    ]
    return sum(map(any, zip(*overflows, strict=True)))


def _texts(pairs: Sequence[Pair], side: str) -> list[str]:
    return [pair["prompt"] + pair[side] for pair in pairs]


def _warn(run: Run, count: int, what: str) -> None:
    if count:
        print(f"{run.name}: warning: {count} {what}", flush=True)
