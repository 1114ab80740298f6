"""How positive a text is: by a classifier, or by the VADER lexicon when there is none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from triplex.data.rows import LABELS
from triplex.models.classifier import classifier_logits
from triplex.models.loading import load_classifier
from triplex.models.optim import OptimConfig
from triplex.models.sources import FolderConfig, HubConfig
from triplex.rewards.contract import PartConfig, Reward
from triplex.runs.errors import InputError
from triplex.runs.params import Section, described

_REWARD_POSITIVE, _REWARD_NEGATIVE = 2.0, -0.5  # of the graded form, at full confidence


class TrainedClassifier(Section):
    """`reward.sentiment.model` with `kind: train`: the base model's trunk with a head, trained on the SFT labels."""

    kind: Literal["train"]
    num_examples: int = described("labelled rows, the first by id", unit="rows", ge=2)
    optim: OptimConfig


class Vader(Section):
    """`kind: vader`: the lexicon of Hutto and Gilbert 2014, English, no model."""

    kind: Literal["vader"]


class SentimentConfig(PartConfig):
    """`reward.sentiment:` how positive prompt and completion are."""

    form: Literal["probability", "graded"] = Field(
        description="probability: P(positive), 0 to 1; graded: +2.0 or -0.5 times the confidence in the likelier label"
    )
    model: Annotated[TrainedClassifier | FolderConfig | HubConfig | Vader, Field(discriminator="kind")] = described(
        "trained on the labels, a folder, of the hub, or a lexicon"
    )


class ClassifierSentiment:
    """P(positive) of prompt + completion under a sequence classifier that has one label called positive."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.positive = positive_label(model.config.id2label)

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """P(positive) of each text."""
        return classifier_logits(self.model, self.tokenizer, texts).softmax(-1)[:, self.positive].tolist()

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


class GradedSentiment:
    """+2.0 * P(positive) for a text more likely positive, -0.5 * (1 - P(positive)) for another: -0.5..-0.25 or 1..2."""

    def __init__(self, probability: Reward) -> None:
        self.probability, self.model = probability, getattr(probability, "model", None)

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        found = self.probability(prompts, completions, completion_ids, **columns)
        return [None if p is None else graded(p) for p in found]


def graded(probability: float) -> float:
    """The graded form of P(positive); 0 where neither label is likelier, as for a text without any word of VADER's."""
    if probability == 0.5:
        return 0.0
    return _REWARD_POSITIVE * probability if probability > 0.5 else _REWARD_NEGATIVE * (1 - probability)


def positive_label(id2label: dict[int, str]) -> int:
    """The index of the one label that is called positive (or pos, true; 1, LABEL_1 of two); the order differs."""
    names = {index: name.casefold().removeprefix("label_") for index, name in id2label.items()}
    found = [i for i, name in names.items() if LABELS.get(name) == 1 and (len(names) == 2 or not name.isdigit())]
    if len(found) != 1 or len(names) < 2:
        what = f"{len(found)} of its {len(names)} labels are called positive: {id2label}"
        raise InputError("sentiment classifier", what, "name one of two or more `positive` in id2label of config.json")
    return found[0]


def load_sentiment(config: SentimentConfig, folder: Path, precision: str) -> Reward:
    """P(positive) by the classifier in `folder`, or by VADER."""
    vader = isinstance(config.model, Vader)
    return VaderSentiment() if vader else ClassifierSentiment(*load_classifier(folder, precision))
