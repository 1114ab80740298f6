"""reward: what the policies will be paid for, as a folder that stands alone."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
from pathlib import Path
from shutil import copyfile
from typing import Any

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_table
from triplex.distributed.launch import run_workers
from triplex.distributed.strategy import Strategy
from triplex.models.card import write_card
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.loading import load_causal_lm, load_classifier
from triplex.models.saving import save_model
from triplex.models.sources import FolderConfig, HubConfig, model_folder, named
from triplex.perplexity.config import PerplexityConfig
from triplex.rewards.calibration import Moments, Samples, calibrate, sample_sft
from triplex.rewards.folder import CLASSIFIER, PLUGINS, PREFERENCE, RewardConfig, RewardSpec, load_part, save_spec
from triplex.rewards.plugin import PluginReward, check_plugin, plugin_file, read_source
from triplex.rewards.preference import TrainedPreference
from triplex.rewards.preference_pairs import held_out
from triplex.rewards.preference_training import pairwise_accuracy, train_preference_model
from triplex.rewards.sentiment import TrainedClassifier, Vader
from triplex.rewards.sentiment_training import measure_accuracy, train_classifier
from triplex.runs.digests import publish
from triplex.runs.errors import errors_in_words
from triplex.runs.guard import guarded
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import Run, run_stage

PAIRS, HELD_OUT = Path("data/processed/sft.parquet"), Path("data/processed/eval.parquet")
PROMPTS, PREFERENCES = Path("data/processed/prompts.parquet"), Path("data/processed/preferences.parquet")
MODELS, BASE, SFT, OUT = Path("models"), Path("models/base"), Path("models/sft"), Path("models/reward")
BASELINES = Path("data/baselines.parquet")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    perplexity: PerplexityConfig
    reward: RewardConfig


def check(params: Params) -> None:
    """InputError for a plug-in whose file is missing, or another than the parameters say."""
    for plugin in params.reward.plugins:
        read_source(plugin, plugin_file(plugin))


def rows(path: Path, schema: str) -> list[dict[str, Any]]:
    """The rows of one of the tables of data/processed."""
    return read_table(path, SCHEMAS[schema]).to_pylist()


def part_models(config: RewardConfig) -> dict[str, Any]:
    """Where each model of a part comes from, by its folder in OUT."""
    found = {CLASSIFIER: config.sentiment.model if config.sentiment else None}
    return found | {PREFERENCE: config.preference.model if config.preference and config.preference.weight else None}


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    """Train what is to be trained, and write it: what each worker does."""
    params = Params.model_validate_json(given["params"])
    config, precision = params.reward, params.compute.precision
    for name, model in part_models(config).items():
        match model:
            case TrainedClassifier():
                made = train_classifier(model, precision, BASE, rows(PAIRS, "sft"), run, strategy)
            case TrainedPreference():
                assert config.preference
                pairs = rows(PREFERENCES, "preferences")
                made = train_preference_model(config.preference, precision, BASE, pairs, run, strategy)
            case _:
                continue
        with strategy.whole():
            if strategy.is_first:
                save_model(OUT / name, *made)


def make_models(params: Params, run: Run) -> dict[str, float]:
    """Write the models and plug-ins of the parts into OUT; returns the accuracy of each that has labels or pairs."""
    config, precision, sources = params.reward, params.compute.precision, part_models(params.reward)
    if any(isinstance(model, TrainedClassifier | TrainedPreference) for model in sources.values()):
        given = {"params": params.model_dump_json(by_alias=True, exclude_none=True)}
        run_workers(params.compute, "stages.reward", given, run)
    for name, model in sources.items():
        match model:
            case FolderConfig() | HubConfig():
                save_model(OUT / name, *load_classifier(model_folder(model), precision))
                made = f"A sequence classifier: {named(model)}."
            case TrainedClassifier():
                made = f"`{BASE}` with a head that tells positive from negative texts."
            case TrainedPreference():
                made = f"`{BASE}` with a head whose logit is higher for the text that would be preferred."
            case _:
                continue
        write_card(OUT / name, run.name, params, made, "text-classification")
    for plugin in config.plugins:
        (OUT / PLUGINS).mkdir(parents=True, exist_ok=True)
        copyfile(plugin_file(plugin), OUT / PLUGINS / f"{plugin.name}.py")
    return accuracy(config, precision)


def accuracy(config: RewardConfig, precision: str) -> dict[str, float]:
    """Of the models in OUT, on what was held out: of each that has labels or pairs there."""
    found: dict[str, float | None] = {}
    if config.sentiment:
        uses_vader = isinstance(config.sentiment.model, Vader)
        classifier = None if uses_vader else load_classifier(OUT / CLASSIFIER, precision)
        found["sentiment"] = measure_accuracy(classifier, rows(HELD_OUT, "eval"))
    if config.preference and config.preference.weight:
        _, pairs = held_out(config.preference, rows(PREFERENCES, "preferences"))
        found["preference"] = pairwise_accuracy(*load_classifier(OUT / PREFERENCE, precision), pairs)
    return {name: share for name, share in found.items() if share is not None}


def sample_and_check(config: RewardConfig, precision: str, seed: int) -> Samples | None:
    """Responses of the SFT model, where a part is measured on them, after trying the plug-ins on them."""
    if config.calibration is None:
        return None
    model, tokenizer = load_causal_lm(SFT, precision)
    lm = HuggingFaceLM(model, tokenizer)
    samples = sample_sft(lm, tokenizer, rows(PROMPTS, "prompts"), config.calibration, seed)
    for plugin in config.plugins:
        with PluginReward(plugin, plugin_file(plugin)) as reward:
            check_plugin(reward, samples)
    return samples


def moments(spec: RewardSpec, samples: Samples | None, precision: str) -> dict[str, Moments]:
    """Of each normalised part, on the samples."""
    found = {}
    for name, part in spec.config.parts().items():
        if part.normalise:
            assert samples is not None, "RewardConfig has seen to it"
            reward = load_part(name, OUT, spec, MODELS / spec.perplexity.scorer, BASELINES, precision)
            found[name] = calibrate(name, reward, samples)
    return found


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("reward", params) as run:
            precision = params.compute.precision
            check(params)
            samples = sample_and_check(params.reward, precision, run.seed)
            shares = make_models(params, run)
            publish("reward", run.state, run.state / "preference")
            spec = RewardSpec(config=params.reward, perplexity=params.perplexity, accuracy=shares, calibration={})
            save_spec(OUT, spec.model_copy(update={"calibration": moments(spec, samples, precision)}))
            print(f"reward: {', '.join(params.reward.parts())} -> {OUT}")
            for name, share in shares.items():
                print(f"reward: {name} right on {share:.1%} of what was held out")


if __name__ == "__main__":
    guarded(main)
