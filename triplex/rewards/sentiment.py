"""How positive a text is: by a classifier, or by the VADER lexicon when there is none."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from triplex.models.loading import check_folder, device, load_classifier, load_tokenizer
from triplex.models.sources import FolderConfig, HubConfig, model_folder
from triplex.models.training import OptimConfig, train_supervised
from triplex.runs.errors import InputError
from triplex.runs.params import Section
from triplex.runs.stage import Run

POSITIVE = 1  # the label of a positive text, here and in the tables
_ROWS_A_PASS = 64


class TrainedClassifier(Section):
    """`reward.sentiment.model` with `kind: train`: the base model's trunk with a head, trained on the SFT labels."""

    kind: Literal["train"]
    num_examples: int = Field(ge=2, description="labelled rows, the first by id")
    optim: OptimConfig


class Vader(Section):
    """`kind: vader`: the lexicon of Hutto and Gilbert 2014, English, no model."""

    kind: Literal["vader"]


class SentimentConfig(Section):
    """`reward.sentiment:` probability of a positive text, in [0, 1]."""

    weight: float = Field(ge=0)
    model: Annotated[TrainedClassifier | FolderConfig | HubConfig | Vader, Field(discriminator="kind")]


class ClassifierSentiment:
    """P(positive) of prompt + completion under a two-label sequence classifier."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        if model.config.num_labels != 2:
            raise InputError("sentiment classifier", f"has {model.config.num_labels} labels", "give one with two")
        self.model, self.tokenizer = model, tokenizer

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """P(positive) of each text; texts are scored in passes of similar length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = torch.empty(len(texts))
        for start in range(0, len(order), _ROWS_A_PASS):
            rows = order[start : start + _ROWS_A_PASS]
            batch = classifier_batch(self.tokenizer, [texts[i] for i in rows]).items()
            logits = self.model(**{key: value.to(self.model.device) for key, value in batch}).logits
            found[rows] = logits.float().softmax(-1)[:, POSITIVE].cpu()
        return found.tolist()

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        return self.probabilities([p + c for p, c in zip(prompts, completions, strict=True)])


class VaderSentiment:
    """(compound + 1) / 2 of prompt + completion: VADER's score mapped from [-1, 1] to [0, 1]."""

    def __init__(self) -> None:
        self.analyzer = SentimentIntensityAnalyzer()

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
        return [(self.analyzer.polarity_scores(text)["compound"] + 1) / 2 for text in texts]


def classifier_batch(tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Token ids padded on the right: positions start at 0 and the head reads the last real token."""
    encoded = tokenizer(list(texts), padding=True, padding_side="right", truncation=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


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
    model.config.id2label = {0: "negative", POSITIVE: "positive"}
    model.config.label2id = {"negative": 0, "positive": POSITIVE}
    tokenizer = load_tokenizer(base, model)
    model.config.pad_token_id = tokenizer.pad_token_id
    collate = partial(_labelled_batch, tokenizer)
    seed, state = run.seed, run.state
    train_supervised(
        run.name, model.to(device()), rows, collate, config.optim, seed=seed, precision=precision, state=state
    )
    return model.eval(), tokenizer


def _labelled_batch(tokenizer: Any, rows: Sequence[tuple[str, int]]) -> dict[str, Tensor]:
    batch = classifier_batch(tokenizer, [text for text, _ in rows])
    return batch | {"labels": torch.tensor([label for _, label in rows])}


def load_sentiment(kind: str, folder: Path, precision: str) -> ClassifierSentiment | VaderSentiment:
    """The sentiment of a reward folder: its classifier, or VADER."""
    return VaderSentiment() if kind == "vader" else ClassifierSentiment(*load_classifier(folder, precision))
