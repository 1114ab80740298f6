"""The reward as a folder: models/reward holds models, plug-ins and reward.json, and loads into one composite."""

import json
from pathlib import Path
from typing import Any, Self

import transformers  # its classes by attribute: importing them here would cost a second
from pydantic import Field, ValidationError, model_validator

from triplex.models.loading import load_classifier
from triplex.perplexity.config import PerplexityConfig
from triplex.rewards.adapters import Recipe
from triplex.rewards.calibration import CalibrationConfig, Moments
from triplex.rewards.composite import CompositeReward, Part
from triplex.rewards.contract import PartConfig, Reward
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.perplexity import UNGUARDED, MultiLevelPerplexityReward, PerplexityRewardConfig
from triplex.rewards.perplexity_response import ResponseTarget
from triplex.rewards.plugin import BUILT_IN, PluginConfig, PluginReward, check_names
from triplex.rewards.preference import PreferenceConfig, PreferenceReward
from triplex.rewards.repetition import RepetitionConfig, RepetitionReward
from triplex.rewards.sentiment import GradedSentiment, SentimentConfig, load_sentiment
from triplex.runs.errors import InputError
from triplex.runs.files import write_json
from triplex.runs.params import OrAbsent, Section

SPEC, CLASSIFIER, PREFERENCE, PLUGINS = "reward.json", "classifier", "preference", "plugins"


class RewardConfig(Section):
    """`reward:` the parts of the total, each with a weight; a part that is absent, or of weight 0, is left out."""

    sentiment: OrAbsent[SentimentConfig] = None
    repetition: OrAbsent[RepetitionConfig] = None
    length: OrAbsent[LengthConfig] = None
    perplexity: OrAbsent[PerplexityRewardConfig] = None
    preference: OrAbsent[PreferenceConfig] = None
    plugins: list[PluginConfig] = Field(default=[], description="functions of your own, in the folder plugins")
    calibration: OrAbsent[CalibrationConfig] = Field(
        default=None, description="needed where a part is normalised or a plug-in"
    )

    def parts(self) -> dict[str, PartConfig]:
        """The parts that count, by name."""
        named = {name: getattr(self, name) for name in BUILT_IN} | {plugin.name: plugin for plugin in self.plugins}
        return {name: part for name, part in named.items() if part is not None and part.weight > 0}

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_names(self.plugins)
        parts = self.parts()
        if not parts:
            raise ValueError("every part has weight 0; give at least one a weight above 0")
        sampling = [name for name, part in parts.items() if part.normalise or isinstance(part, PluginConfig)]
        if self.calibration is None and sampling:
            raise ValueError(f"{sampling[0]} is measured on responses, so the section reward.calibration is needed")
        target = self.perplexity.target if self.perplexity and "perplexity" in parts else None
        if isinstance(target, ResponseTarget) and not (target.unguarded or {"repetition", "length"} <= parts.keys()):
            raise ValueError("; ".join(UNGUARDED))
        return self


class RewardSpec(Section):
    """What reward.json holds: the configuration, and what was measured when the folder was made."""

    config: RewardConfig
    perplexity: PerplexityConfig
    accuracy: dict[str, float] = Field(description="by model, the share of held-out labels or pairs that it gets right")
    calibration: dict[str, Moments] = Field(
        description="by normalised part, of its values on responses of the SFT model"
    )


def save_spec(folder: Path, spec: RewardSpec) -> None:
    """Write reward.json."""
    write_json(folder / SPEC, spec.model_dump(mode="json", by_alias=True, exclude_none=True))


def load_spec(folder: str | Path) -> RewardSpec:
    """The checked reward.json of a reward folder."""
    file = Path(folder) / SPEC
    if not file.is_file():
        raise InputError(folder, f"holds no {SPEC}", "run the stage that writes it: `dvc repro reward`")
    try:
        return RewardSpec.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise InputError(file, f"not a reward ({str(error).splitlines()[0]})", "run `dvc repro reward`") from error


def load_part(
    name: str, folder: Path, spec: RewardSpec, scorer_folder: str | Path, baselines: str | Path, precision: str
) -> Reward:
    """One part of a reward folder, without weight, normalisation and clip."""
    match spec.config.parts()[name]:
        case SentimentConfig() as config:
            sentiment = load_sentiment(config, folder / CLASSIFIER, precision)
            return GradedSentiment(sentiment) if config.form == "graded" else sentiment
        case RepetitionConfig() as config:
            return RepetitionReward(config)
        case LengthConfig() as config:
            return LengthReward(config)
        case PerplexityRewardConfig() as config:
            levels = spec.perplexity
            return MultiLevelPerplexityReward.load(scorer_folder, baselines, precision, levels, config, guarded=True)
        case PreferenceConfig():
            return PreferenceReward(*load_classifier(folder / PREFERENCE, precision))
        case PluginConfig() as config:
            return PluginReward(config, folder / PLUGINS / f"{name}.py")
        case other:
            raise AssertionError(other)


def load_sentiment_part(folder: Path, precision: str) -> Reward | None:
    """P(positive) as the sentiment part has it, without its form and weight; None where there is no such part."""
    config = load_spec(folder).config.sentiment
    return None if config is None else load_sentiment(config, folder / CLASSIFIER, precision)


def load_reward(
    folder: str | Path, scorer_folder: str | Path, baselines: str | Path, precision: str
) -> CompositeReward:
    """The composite of a reward folder.

    The perplexity part is scored by the frozen model of `scorer_folder` against its table `baselines`. The folder's
    tokenizer is that of responses, for trainers that hand over text alone; without the folder there is none.
    """
    folder = Path(folder)
    spec = load_spec(folder)
    parts: dict[str, Part] = {}
    for name, config in spec.config.parts().items():
        if config.normalise and name not in spec.calibration:
            raise InputError(folder / SPEC, f"holds no calibration of the part {name}", "run `dvc repro reward`")
        moments = spec.calibration[name] if config.normalise else Moments(mean=0.0, std=1.0)
        reward = load_part(name, folder, spec, scorer_folder, baselines, precision)
        parts[name] = Part(reward, config.weight, moments.mean, moments.std, config.clip)
    composite = CompositeReward(parts)
    arguments: dict[str, Any] = {
        "folder": str(folder.resolve()),
        "scorer_folder": str(Path(scorer_folder).resolve()),
        "baselines": str(Path(baselines).resolve()),
        "precision": precision,
    }
    has_tokenizer = (Path(scorer_folder) / "tokenizer.json").is_file()
    tokenizer = transformers.AutoTokenizer.from_pretrained(scorer_folder) if has_tokenizer else None
    return composite.loaded_by(Recipe("triplex.rewards.folder:load_reward", arguments), tokenizer)
