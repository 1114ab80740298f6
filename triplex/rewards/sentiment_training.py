"""The sentiment classifier: the base model's trunk with a head, trained on the labels of the data."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from triplex.distributed.strategy import Strategy
from triplex.models.classifier import classifier_batch, encode_texts
from triplex.models.loading import check_folder, device, load_tokenizer
from triplex.models.training import SupervisedTrainer
from triplex.rewards.sentiment import ClassifierSentiment, TrainedClassifier, VaderSentiment
from triplex.runs.errors import InputError
from triplex.runs.stage import Run


def labelled(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """(prompt + completion, label) of the rows that have a label."""
    return [(row["prompt"] + row["completion"], row["label"]) for row in rows if row["label"] is not None]


def measure_accuracy(classifier: tuple[Any, Any] | None, rows: Sequence[dict[str, Any]]) -> float | None:
    """The share of the labelled rows that the classifier, or VADER, gets right; None without labels."""
    pairs = labelled(rows)
    if not pairs:
        return None
    sentiment = ClassifierSentiment(*classifier) if classifier else VaderSentiment()
    found = sentiment([""] * len(pairs), [text for text, _ in pairs], [])
    right = [(value > 0.5) == bool(label) for value, (_, label) in zip(found, pairs, strict=True)]
    return sum(right) / len(right)


def train_classifier(
    config: TrainedClassifier, precision: str, base: Path, rows: Sequence[dict[str, Any]], run: Run,
    strategy: Strategy | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """(classifier, tokenizer), trained by all workers of `strategy` on rows of the sft table."""
    texts = labelled(rows)[: config.num_examples]
    if len({label for _, label in texts}) < 2:
        raise InputError(
            "data/processed/sft.parquet",
            f"{len(texts)} labelled rows, with fewer than two different labels: no classifier can be trained",
            "name the label column in data.source.columns, or set reward.sentiment.model to {kind: vader}",
        )
    check_folder(base, "ForCausalLM")
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=2, dtype=torch.float32, use_safetensors=True
    )
    model.config.id2label = {0: "negative", 1: "positive"}
    model.config.label2id = {"negative": 0, "positive": 1}
    model.config.problem_type = "single_label_classification"
    tokenizer = load_tokenizer(base, model)
    model.config.pad_token_id = tokenizer.pad_token_id
    ids = encode_texts(tokenizer, [text for text, _ in texts])
    SupervisedTrainer(
        run.name, model.to(device()).train(), list(zip(ids, [label for _, label in texts], strict=True)),
        partial(_labelled_batch, pad_id=tokenizer.pad_token_id), label_loss, config.optim,
        seed=run.seed, precision=precision, state=run.state, strategy=strategy,
    ).train()  # fmt: skip
    return model.eval(), tokenizer


def label_loss(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(sum over the batch's texts of -log p(label), their number)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    total = cross_entropy(logits.float(), batch["labels"], reduction="sum")
    return total, torch.tensor(len(logits), device=logits.device)


def _labelled_batch(rows: Sequence[tuple[list[int], int]], pad_id: int) -> dict[str, Tensor]:
    return classifier_batch([ids for ids, _ in rows], pad_id) | {"labels": torch.tensor([label for _, label in rows])}
