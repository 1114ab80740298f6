"""base: the language model that everything starts from, as a Hugging Face folder."""

from pathlib import Path

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_table
from triplex.models.base import BaseConfig, base_model
from triplex.models.saving import num_parameters, save_model
from triplex.runs.digests import publish
from triplex.runs.errors import errors_in_words
from triplex.runs.guard import guarded
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import run_stage

CORPUS, OUT = Path("data/processed/corpus.parquet"), Path("models/base")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    base: BaseConfig


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("base", params) as run:
            texts = read_table(CORPUS, SCHEMAS["corpus"])["text"].to_pylist()
            model, tokenizer = base_model(params.base, params.compute.precision, texts, run)
            save_model(OUT, model, tokenizer)
            publish("base", run.state)
            print(f"base: {num_parameters(model):,} parameters, {len(tokenizer):,} tokens in the vocabulary -> {OUT}")


if __name__ == "__main__":
    guarded(main)
