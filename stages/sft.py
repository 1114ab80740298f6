"""sft: the base model fine-tuned to complete prompts."""

from pathlib import Path

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_table
from triplex.models.loading import load_causal_lm
from triplex.models.saving import save_model
from triplex.models.sft import SFTConfig, fine_tune
from triplex.runs.digests import publish
from triplex.runs.errors import errors_in_words
from triplex.runs.guard import guarded
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import run_stage

PAIRS, BASE, OUT = Path("data/processed/sft.parquet"), Path("models/base"), Path("models/sft")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    sft: SFTConfig


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("sft", params) as run:
            table = read_table(PAIRS, SCHEMAS["sft"])
            pairs = list(zip(table["prompt"].to_pylist(), table["completion"].to_pylist(), strict=True))
            model, tokenizer = load_causal_lm(BASE)
            model = fine_tune(params.sft, params.compute.precision, model, tokenizer, pairs, run)
            save_model(OUT, model, tokenizer)
            publish("sft", run.state)
            print(f"sft: fine-tuned on {len(pairs):,} pairs -> {OUT}")


if __name__ == "__main__":
    guarded(main)
