"""baseline: human references under the frozen scorer, level by level, and the noise of these numbers."""

from pathlib import Path
from typing import Any

from pydantic import Field

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_table
from triplex.models.loading import load_causal_lm
from triplex.perplexity.baselines import score_baselines, scorer_identity, write_baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.noise import measure_noise
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.errors import errors_in_words
from triplex.runs.guard import guarded
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.progress import StepProgress
from triplex.runs.seeds import derive_seed
from triplex.runs.stage import run_stage

MODELS, OUT = Path("models"), Path("data/baselines.parquet")
SOURCES = {"train": Path("data/processed/prompts.parquet"), "eval": Path("data/processed/eval.parquet")}


class BaselineConfig(Section):
    """`baseline:` which references are scored."""

    num_references: int = Field(ge=2, description="training prompts, at most, chosen by the hash of their ids")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    perplexity: PerplexityConfig
    baseline: BaselineConfig


def sample(rows: list[dict[str, Any]], num_rows: int, seed: int) -> list[dict[str, Any]]:
    """The `num_rows` rows whose ids hash lowest, in that order: neither the order nor the rest of the rows matters."""
    return sorted(rows, key=lambda row: derive_seed(seed, row["id"]))[:num_rows]


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("baseline", params) as run:
            train = read_table(SOURCES["train"], SCHEMAS["prompts"]).to_pylist()
            held_out = read_table(SOURCES["eval"], SCHEMAS["eval"]).to_pylist()
            rows = [{**row, "split": "train"} for row in sample(train, params.baseline.num_references, run.seed)]
            rows += [{**row, "split": "eval"} for row in held_out]
            folder = MODELS / params.perplexity.scorer
            scorer = FrozenScorer(
                *load_causal_lm(folder, params.compute.precision),
                max_tokens_per_batch=params.perplexity.max_tokens_per_batch,
                pools=params.perplexity.pools(),
            )
            with StepProgress("baseline", len(rows)) as progress:
                scored = score_baselines(scorer, params.perplexity, rows, progress.advance)
            noise = measure_noise(scorer, [row["prompt"] for row in rows], [row["reference"] for row in rows])
            identity = scorer_identity(folder, params.compute.precision, params.perplexity)
            write_baselines(OUT, scored, identity, noise)
            print(f"baseline: {len(rows) - len(held_out):,} train and {len(held_out):,} held-out references -> {OUT}")


if __name__ == "__main__":
    guarded(main)
