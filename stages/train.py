"""train@ppo, train@grpo, ...: the SFT model tuned by reinforcement learning."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
import os
from collections.abc import Sequence
from pathlib import Path
from sys import argv
from typing import Any

from pydantic import BaseModel, create_model

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.backends import trl_limits, unsloth
from triplex.backends.trl_run import TRLRun
from triplex.data.tables import SCHEMAS, read_table
from triplex.distributed.launch import check_installed, run_workers
from triplex.distributed.strategy import Strategy
from triplex.models.card import write_card
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.loading import load_causal_lm, load_classifier
from triplex.models.lora import with_adapters
from triplex.models.policy import Policy
from triplex.models.saving import save_model
from triplex.models.value import ValueHead, ValueNetwork
from triplex.rewards.composite import CompositeReward
from triplex.rewards.folder import PREFERENCE, load_reward, load_spec
from triplex.rl.algorithm import Algorithm
from triplex.rl.algorithms import ALGORITHMS
from triplex.rl.callbacks import Callback, EarlyStopOnKL, HealthChecks, Progress
from triplex.rl.config import TrainConfig, check_sizes
from triplex.rl.digests import Digests
from triplex.rl.ppo import PPO
from triplex.rl.prompts import Prompts
from triplex.rl.records import CompletionFile, MetricFiles
from triplex.rl.tensorboard import TensorBoard
from triplex.rl.trackio import Trackio
from triplex.rl.trainer import Trainer
from triplex.runs.errors import InputError, errors_in_words
from triplex.runs.guard import guarded
from triplex.runs.params import Algorithms, ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import Run, run_stage

PROMPTS, HELD_OUT = Path("data/processed/prompts.parquet"), Path("data/processed/eval.parquet")
BASELINES = Path("data/baselines.parquet")
SFT, REWARD, OUT, REPORTS = Path("models/sft"), Path("models/reward"), Path("models"), Path("reports")
TENSORBOARD = "TRIPLEX_TENSORBOARD"  # environment: the folder for its events
TRACKIO = "TRIPLEX_TRACKIO"  # environment: the project for its runs


class Params(Section):
    """The sections of params.yaml that every algorithm reads."""

    seed: Seed
    compute: ComputeConfig
    train: TrainConfig


class Selection(Section):
    """Which algorithms are trained."""

    algorithms: Algorithms


PARAMS: dict[str, Any] = {  # of each algorithm: what all read, and the section of its name
    name: create_model(f"{name}Params", __base__=Params, **{name: (config, ...)})  # type: ignore[call-overload]
    for name, (_, config) in ALGORITHMS.items()
}


def models(path: Path) -> list[type[BaseModel]]:
    """The parameters that the selected algorithms read."""
    return [PARAMS[name] for name in read_params(Selection, path).algorithms]


def read_prompts(path: Path, schema: str) -> Prompts:
    """The prompts of a table of data/processed, with their human texts as the column `reference`."""
    table = read_table(path, SCHEMAS[schema])
    columns = {"reference": table["reference"].to_pylist()}
    return Prompts(table["id"].to_pylist(), table["prompt"].to_pylist(), columns)


def value_function(algorithm: Algorithm, lm: HuggingFaceLM, precision: str) -> ValueHead | ValueNetwork | None:
    """What estimates the return, where the algorithm needs that."""
    if not isinstance(algorithm, PPO):
        return None
    match algorithm.config.value.kind:
        case "head":
            return ValueHead(lm.hidden_size, device=lm.model.device)
        case "network":
            return ValueNetwork.from_policy(lm)
        case "reward_model":
            return ValueNetwork.from_reward_model(*preference_model())


def preference_model() -> tuple[Any, Any]:
    """(classifier, tokenizer) of the reward's preference model, for a value that starts from it."""
    if not (REWARD / PREFERENCE).is_dir():
        what = "value.kind = reward_model, but the reward has no preference model"
        raise InputError("params.yaml: ppo", what, "give reward.preference a weight, or take another kind")
    return load_classifier(REWARD / PREFERENCE)


def callbacks(run: Run, config: TrainConfig, name: str, strategy: Strategy) -> Sequence[Callback]:
    """What watches the training; of several workers the first one writes and shows, and all stop together."""
    stop = [] if config.max_kl is None else [EarlyStopOnKL(config.max_kl)]
    if not strategy.is_first:
        return stop
    files = [MetricFiles(REPORTS / "metrics", name), CompletionFile(REPORTS / "completions", name)]
    found: list[Callback] = [*files, Digests(name), HealthChecks(), Progress()]
    found += stop
    if folder := os.environ.get(TENSORBOARD):
        found.append(TensorBoard(Path(folder) / name))
    if project := os.environ.get(TRACKIO):
        found.append(Trackio(project, name))
    return found


def check(params: Params) -> None:
    """InputError for sizes that do not fit each other, and for what the backend cannot do."""
    (name,) = ALGORITHMS.keys() & type(params).model_fields
    make, _ = ALGORITHMS[name]
    algorithm, compute = make(getattr(params, name)), params.compute
    check_sizes(params.train, algorithm, num_prompts=1, num_workers=compute.num_workers)  # of prompts, later
    if compute.executor != "local" and params.train.backend != "native":
        what = f"train.backend = {params.train.backend} trains in one process"
        raise InputError(f"params.yaml: compute.executor = {compute.executor}", what, "write local, or backend: native")
    check_installed(compute)
    match params.train.backend:
        case "trl":
            trl_limits.check(params.train, name, getattr(params, name), params.compute.precision)
        case "unsloth":
            unsloth.check(params.train.lora, params.compute.precision)


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    """Train on the backend, and write the policy: what each worker does."""
    name, params = given["name"], PARAMS[given["name"]].model_validate_json(given["params"])
    make, _ = ALGORITHMS[name]
    algorithm = make(getattr(params, name))
    reward = load_reward(REWARD, OUT / load_spec(REWARD).perplexity.scorer, BASELINES, params.compute.precision)
    if params.train.backend == "trl":
        trainer: Any = train_with_trl(params, algorithm, name, run, reward)
    else:
        trainer = train_natively(params, algorithm, name, run, reward, strategy)
    if trainer.stopped and strategy.is_first:
        print(f"train: stopped after {len(trainer.metrics)} of {params.train.num_steps} steps: {trainer.stopped}")


def train_natively(params: Params, algorithm: Algorithm, name: str, run: Run, reward: CompositeReward,
                   strategy: Strategy) -> Trainer:  # fmt: skip
    """Train by Triplex's own loop, on a model that transformers or Unsloth has loaded."""
    precision, config = params.compute.precision, params.train
    if fast := config.backend == "unsloth":
        model, tokenizer = unsloth.load_policy(SFT, config.lora, precision, seed=run.seed)
    else:
        model, tokenizer = load_causal_lm(SFT)
        model = with_adapters(model, config.lora)
    lm = HuggingFaceLM(model, tokenizer)
    reference = None if config.lora.rank else HuggingFaceLM(*load_causal_lm(SFT, precision))
    trainer = Trainer(
        config, algorithm, Policy(lm, value_function(algorithm, lm, precision)), reference, tokenizer, reward,
        read_prompts(PROMPTS, "prompts"), read_prompts(HELD_OUT, "eval"), run, precision=precision,
        callbacks=callbacks(run, config, name, strategy), strategy=strategy,
    )  # fmt: skip
    trainer.train()
    with strategy.whole():
        if fast:
            unsloth.save_policy(OUT / name, model, tokenizer, **sampling(config))
        elif strategy.is_first:
            save_model(OUT / name, model, tokenizer, **sampling(config))
    return trainer


def train_with_trl(params: Params, algorithm: Algorithm, name: str, run: Run, reward: CompositeReward) -> TRLRun:
    """Train by TRL's trainers."""
    from triplex.backends.trl_policy import train_policy  # TRL takes seconds to import

    from_reward = isinstance(algorithm, PPO) and algorithm.config.value.kind == "reward_model"
    model, tokenizer, trainer = train_policy(
        params.train, name, algorithm, SFT, reward, read_prompts(PROMPTS, "prompts"), run,
        precision=params.compute.precision, callbacks=callbacks(run, params.train, name, Strategy()),
        value_model=preference_model()[0] if from_reward else None,
    )  # fmt: skip
    save_model(OUT / name, model, tokenizer, **sampling(params.train))
    return trainer


def sampling(config: TrainConfig) -> dict[str, Any]:
    """How the policy was sampled, for its generation config."""
    return {"temperature": config.temperature, "max_new_tokens": config.max_new_tokens}


def main(name: str) -> None:
    """Run the stage for one algorithm."""
    with errors_in_words():
        if name not in ALGORITHMS:
            raise InputError("python -m stages.train", f"no algorithm {name!r}", f"known: {', '.join(ALGORITHMS)}")
        params = read_params(PARAMS[name])
        with run_stage(f"train@{name}", params) as run:
            check(params)
            given = {"name": name, "params": params.model_dump_json(by_alias=True, exclude_none=True)}
            run_workers(params.compute, "stages.train", given, run)
            write_card(OUT / name, run.name, params, f"`{SFT}`, tuned by `{name}` for the reward in `{REWARD}`.")
            print(f"train: {name} -> {OUT / name}")


if __name__ == "__main__":
    guarded(lambda: main(argv[-1] if len(argv) > 1 else ""))
