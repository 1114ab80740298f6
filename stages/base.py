"""base: the language model that everything starts from, as a Hugging Face folder."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
from pathlib import Path
from typing import Any

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_table
from triplex.distributed.launch import run_workers
from triplex.distributed.strategy import Strategy
from triplex.models.base import BaseConfig, base_model
from triplex.models.card import write_card
from triplex.models.saving import num_parameters, save_model
from triplex.models.scratch import ScratchConfig
from triplex.models.sources import named
from triplex.runs.digests import publish
from triplex.runs.errors import errors_in_words
from triplex.runs.guard import guarded
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import Run, run_stage

CORPUS, OUT = Path("data/processed/corpus.parquet"), Path("models/base")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    base: BaseConfig


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    """Make the model, and write it: what each worker does."""
    params = Params.model_validate_json(given["params"])
    texts = read_table(CORPUS, SCHEMAS["corpus"])["text"].to_pylist()
    model, tokenizer = base_model(params.base, params.compute.precision, texts, run, strategy)
    with strategy.whole():
        if strategy.is_first:
            save_model(OUT, model, tokenizer)
            print(f"base: {num_parameters(model):,} parameters, {len(tokenizer):,} tokens in the vocabulary -> {OUT}")


def made(config: BaseConfig) -> str:
    """How the model came to be, in a sentence."""
    if isinstance(config.model, ScratchConfig):
        return f"A {config.model.architecture} language model, trained from scratch on `{CORPUS}`."
    return f"A language model: {named(config.model)}."


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("base", params) as run:
            given = {"params": params.model_dump_json(by_alias=True, exclude_none=True)}
            if isinstance(params.base.model, ScratchConfig):
                run_workers(params.compute, "stages.base", given, run)
            else:  # there is nothing to train
                work(given, run, Strategy())
            write_card(OUT, run.name, params, made(params.base))
            publish("base", run.state)


if __name__ == "__main__":
    guarded(main)
