"""sft: the base model fine-tuned to complete prompts."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
from pathlib import Path
from typing import Any

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_table
from triplex.distributed.launch import run_workers
from triplex.distributed.strategy import Strategy
from triplex.models.card import write_card
from triplex.models.loading import load_causal_lm
from triplex.models.saving import save_model
from triplex.models.sft import SFTConfig, fine_tune
from triplex.runs.digests import publish
from triplex.runs.errors import errors_in_words
from triplex.runs.guard import guarded
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import Run, run_stage

PAIRS, BASE, OUT = Path("data/processed/sft.parquet"), Path("models/base"), Path("models/sft")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    sft: SFTConfig


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    """Fine-tune, and write the model: what each worker does."""
    params = Params.model_validate_json(given["params"])
    table = read_table(PAIRS, SCHEMAS["sft"])
    pairs = list(zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True))
    model, tokenizer = load_causal_lm(BASE)
    model = fine_tune(params.sft, params.compute.precision, model, tokenizer, pairs, run, strategy)
    with strategy.whole():
        if strategy.is_first:
            save_model(OUT, model, tokenizer)
            print(f"sft: fine-tuned on {min(len(pairs), params.sft.num_examples):,} pairs -> {OUT}")


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("sft", params) as run:
            given = {"params": params.model_dump_json(by_alias=True, exclude_none=True)}
            run_workers(params.compute, "stages.sft", given, run)
            write_card(OUT, run.name, params, f"`{BASE}`, fine-tuned to complete prompts.")
            publish("sft", run.state)


if __name__ == "__main__":
    guarded(main)
