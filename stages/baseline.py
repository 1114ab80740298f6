"""baseline: human references under the frozen fine-tuned model, level by level."""

from pathlib import Path
from typing import Any

from pydantic import Field

from triplex.data.tables import SCHEMAS, read_table
from triplex.models.loading import load_causal_lm
from triplex.perplexity.baselines import NATS_COLUMNS, scorer_identity, text_sha256, write_baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.progress import StepProgress
from triplex.runs.seeds import derive_seed
from triplex.runs.stage import errors_in_words, run_stage

MODEL, OUT = Path("models/sft"), Path("data/baselines.parquet")
TRAIN, EVAL = Path("data/processed/sft.parquet"), Path("data/processed/eval.parquet")
_ROWS_BETWEEN_REPORTS = 256


class BaselineConfig(Section):
    """`baseline:` which references are scored."""

    num_references: int = Field(ge=2, description="rows of the sft split, at most, chosen by the hash of their ids")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    perplexity: PerplexityConfig
    baseline: BaselineConfig


def sample(rows: list[dict[str, Any]], num_rows: int, seed: int) -> list[dict[str, Any]]:
    """The `num_rows` rows whose ids hash lowest, in that order: neither the order nor the rest of the rows matters."""
    return sorted(rows, key=lambda row: derive_seed(seed, row["id"]))[:num_rows]


def score_references(
    split: str, rows: list[dict[str, Any]], scorer: FrozenScorer, progress: StepProgress
) -> list[dict[str, Any]]:
    """One row of the baselines table for each reference, its completion scored after its prompt."""
    scored = []
    for start in range(0, len(rows), _ROWS_BETWEEN_REPORTS):
        part = rows[start : start + _ROWS_BETWEEN_REPORTS]
        results = scorer.score(
            [row["prompt"] for row in part],
            [row["completion"] for row in part],
            names=[f"{split} reference {row['id']!r}" for row in part],
        )
        for row, result in zip(part, results, strict=True):
            scored.append(
                {
                    "id": row["id"],
                    "split": split,
                    "prompt_sha256": text_sha256(row["prompt"]),
                    "reference_sha256": text_sha256(row["completion"]),
                    "num_tokens": len(result.nats),
                    **dict(zip(NATS_COLUMNS, result.levels.tolist(), strict=True)),
                }
            )
        progress.advance(len(part))
    return scored


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("baseline", params) as run:
            train = sample(read_table(TRAIN, SCHEMAS["sft"]).to_pylist(), params.baseline.num_references, run.seed)
            held_out = read_table(EVAL, SCHEMAS["eval"]).to_pylist()
            scorer = FrozenScorer(
                *load_causal_lm(MODEL, params.compute.precision),
                max_tokens_per_batch=params.perplexity.max_tokens_per_batch,
                pools=params.perplexity.pools(),
            )
            with StepProgress("baseline", len(train) + len(held_out)) as progress:
                rows = score_references("train", train, scorer, progress)
                rows += score_references("eval", held_out, scorer, progress)
            write_baselines(OUT, rows, scorer_identity(MODEL, params.compute.precision, params.perplexity))
            print(f"baseline: {len(train):,} train and {len(held_out):,} held-out references -> {OUT}")


if __name__ == "__main__":
    main()
