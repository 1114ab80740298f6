"""What people prefer, as one number: the logit of a Bradley-Terry model."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from triplex.models.classifier import classifier_logits
from triplex.models.optim import OptimConfig
from triplex.models.sources import FolderConfig, HubConfig
from triplex.rewards.contract import PartConfig
from triplex.runs.errors import InputError
from triplex.runs.params import Section, described


class TrainedPreference(Section):
    """`reward.preference.model` with `kind: train`: the base model's trunk with a head, trained on the preferences."""

    kind: Literal["train"]
    num_pairs: int = described(
        "rows of the preferences table, the first by id; all when there are fewer",
        unit="pairs",
        source="arXiv 1909.08593",
        ge=2,
    )
    max_tokens: int = described("of prompt and completion; a longer text loses its beginning", unit="tokens", ge=8)
    holdout_frac: float = described(
        "of the prompts, by hash: their pairs measure the accuracy", unit="fraction of the prompts", gt=0, lt=1
    )
    optim: OptimConfig


class PreferenceConfig(PartConfig):
    """`reward.preference:` how much a response would be preferred; only differences mean anything."""

    normalise: bool = Field(default=True, description="to mean 0 and variance 1 on responses of the SFT model")
    model: Annotated[TrainedPreference | FolderConfig | HubConfig, Field(discriminator="kind")] = described(
        "trained on the preferences, a folder, or of the hub"
    )


class PreferenceReward:
    """The logit of prompt + completion under a sequence classifier with one label.

    sigmoid(r(a) - r(b)) is the probability that a is preferred to b. A text that is longer than the model or its
    tokenizer takes loses its beginning: the end belongs to the response, which is what is judged.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """`tokenizer` is set to cut so; InputError for a model with more than one label."""
        if model.config.num_labels != 1:
            raise InputError("preference model", f"has {model.config.num_labels} labels", "give one with one label")
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", tokenizer.model_max_length)
        tokenizer.model_max_length = min(positions, tokenizer.model_max_length)
        tokenizer.truncation_side = "left"
        self.model, self.tokenizer = model, tokenizer

    def logits(self, texts: Sequence[str]) -> list[float]:
        """One number a text."""
        return classifier_logits(self.model, self.tokenizer, texts)[:, 0].tolist()

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        return self.logits([p + c for p, c in zip(prompts, completions, strict=True)])
