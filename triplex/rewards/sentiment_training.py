"""The sentiment classifier: the base model's trunk with a head, trained on the labels of the data."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from triplex.models.classifier import classifier_batch
from triplex.models.loading import check_folder, device, load_classifier, load_tokenizer
from triplex.models.sources import FolderConfig, HubConfig, model_folder
from triplex.models.training import train_supervised
from triplex.rewards.sentiment import (
    ClassifierSentiment,
    SentimentConfig,
    TrainedClassifier,
    Vader,
    VaderSentiment,
)
from triplex.runs.errors import InputError
from triplex.runs.stage import Run


def make_classifier(
    config: SentimentConfig, precision: str, base: Path, rows: Sequence[dict[str, Any]], run: Run
) -> tuple[Any, Any] | None:
    """(classifier, tokenizer) as configured: trained on the rows of the sft table, or given; None for VADER."""
    match config.model:
        case TrainedClassifier() as trained:
            return _train_classifier(trained, precision, base, labelled(rows), run)
        case FolderConfig() | HubConfig() as given:
            return load_classifier(model_folder(given), precision)
        case Vader():
            return None


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


def _train_classifier(
    config: TrainedClassifier, precision: str, base: Path, rows: list[tuple[str, int]], run: Run
) -> tuple[Any, Any]:
    rows = rows[: config.num_examples]
    if len({label for _, label in rows}) < 2:
        raise InputError(
            "data/processed/sft.parquet",
            f"{len(rows)} labelled rows, with fewer than two different labels: no classifier can be trained",
            "name the label column in data.source.columns, or set reward.sentiment.model to {kind: vader}",
        )
    check_folder(base, "ForCausalLM")
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=2, dtype=torch.float32, use_safetensors=True
    )
    model.config.id2label = {0: "negative", 1: "positive"}
    model.config.label2id = {"negative": 0, "positive": 1}
    model.config.problem_type = "single_label_classification"  # else the first forward pass with labels writes it there
    tokenizer = load_tokenizer(base, model)
    model.config.pad_token_id = tokenizer.pad_token_id
    train_supervised(
        run.name,
        model.to(device()),
        rows,
        partial(_labelled_batch, tokenizer),
        config.optim,
        seed=run.seed,
        precision=precision,
        state=run.state,
    )
    return model.eval(), tokenizer


def _labelled_batch(tokenizer: Any, rows: Sequence[tuple[str, int]]) -> dict[str, Tensor]:
    batch = classifier_batch(tokenizer, [text for text, _ in rows])
    return batch | {"labels": torch.tensor([label for _, label in rows])}
