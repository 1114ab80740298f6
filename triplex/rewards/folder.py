"""The reward as a folder: models/reward holds the classifier and reward.json, and loads into one composite."""

import json
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from triplex.models.saving import save_model
from triplex.perplexity.config import PerplexityConfig
from triplex.rewards.composite import CompositeReward
from triplex.rewards.contract import Reward
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.perplexity import MultiLevelPerplexityReward, PerplexityRewardConfig
from triplex.rewards.repetition import RepetitionConfig, RepetitionReward
from triplex.rewards.sentiment import SentimentConfig, load_sentiment
from triplex.runs.errors import InputError
from triplex.runs.files import write_json
from triplex.runs.params import Section

SPEC, CLASSIFIER = "reward.json", "classifier"


class RewardConfig(Section):
    """`reward:` the parts of the total, each with a weight; weight 0 leaves a part out."""

    sentiment: SentimentConfig
    repetition: RepetitionConfig
    length: LengthConfig
    perplexity: PerplexityRewardConfig

    @model_validator(mode="after")
    def _rewards_something(self) -> Self:
        if not any(part.weight for part in (self.sentiment, self.repetition, self.length, self.perplexity)):
            raise ValueError("every part has weight 0; give at least one a weight above 0")
        return self


class RewardSpec(Section):
    """What reward.json holds: the configuration, the levels, and how good the classifier is on held-out texts."""

    config: RewardConfig
    perplexity: PerplexityConfig
    accuracy: float | None = Field(description="share of held-out labels that the classifier finds; null: no labels")


def save_reward(folder: Path, spec: RewardSpec, classifier: tuple[Any, Any] | None) -> None:
    """Write the spec and, where there is one, the classifier (model, tokenizer)."""
    if classifier:
        save_model(folder / CLASSIFIER, *classifier)
    write_json(folder / SPEC, spec.model_dump(mode="json", by_alias=True))


def load_spec(folder: Path) -> RewardSpec:
    """The checked reward.json of a reward folder."""
    file = folder / SPEC
    if not file.is_file():
        raise InputError(folder, f"holds no {SPEC}", "run the stage that writes it: `dvc repro reward`")
    try:
        return RewardSpec.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise InputError(file, f"not a reward ({str(error).splitlines()[0]})", "run `dvc repro reward`") from error


def load_reward_sentiment(folder: Path, precision: str) -> Reward:
    """The sentiment part of a reward folder alone, without its weight."""
    return load_sentiment(load_spec(folder).config.sentiment.model.kind, folder / CLASSIFIER, precision)


def load_reward(folder: Path, scorer_folder: Path, baselines: Path, precision: str) -> CompositeReward:
    """The composite of a reward folder; the perplexity part is scored by the frozen model of `scorer_folder`."""
    spec = load_spec(folder)
    config = spec.config
    components: dict[str, tuple[float, Reward]] = {
        "sentiment": (config.sentiment.weight, load_reward_sentiment(folder, precision)),
        "repetition": (config.repetition.weight, RepetitionReward(config.repetition)),
        "length": (config.length.weight, LengthReward(config.length)),
    }
    if config.perplexity.weight > 0:
        levels = MultiLevelPerplexityReward.load(
            scorer_folder, baselines, precision, spec.perplexity, config.perplexity
        )
        components["perplexity"] = (config.perplexity.weight, levels)
    return CompositeReward(components)
