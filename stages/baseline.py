"""baseline: human references under the frozen scorer, level by level, and the noise of these numbers."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_chunks, rechunk, write_chunks
from triplex.distributed.chunks import map_chunks
from triplex.models.loading import load_causal_lm
from triplex.perplexity.baselines import row_names, score_baselines, scorer_identity, to_table, write_baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.noise import measure_noise
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.errors import errors_in_words
from triplex.runs.guard import guarded
from triplex.runs.params import ComputeConfig, Section, Seed, described, read_params
from triplex.runs.progress import StepProgress
from triplex.runs.seeds import derive_seed
from triplex.runs.stage import run_stage

MODELS, OUT = Path("models"), Path("data/baselines.parquet")
TRAIN, HELD_OUT = Path("data/processed/prompts.parquet"), Path("data/processed/eval.parquet")
#: in the stage's state folder: what is to be scored, in chunks that each go through one worker
REFERENCES, ROWS_A_CHUNK = "references.parquet", 256
_REFERENCE = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("id", "split", "prompt", "reference")])


class BaselineConfig(Section):
    """`baseline:` which references are scored."""

    num_references: int = described("training prompts, at most, chosen by the hash of their ids", unit="texts", ge=2)


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    perplexity: PerplexityConfig
    baseline: BaselineConfig


class Worker:
    """The scorer in a process: references in, rows of the baselines out."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.params = Params.model_validate_json(given["params"])
        levels = self.params.perplexity
        self.scorer = FrozenScorer(
            *load_causal_lm(MODELS / levels.scorer, self.params.compute.precision),
            max_tokens_per_batch=levels.max_tokens_per_batch, pools=levels.pools(),
        )  # fmt: skip

    def __call__(self, rows: pa.Table) -> pa.Table:
        return to_table(score_baselines(self.scorer, self.params.perplexity, rows.to_pylist()))


def references(num_references: int, seed: int) -> Iterator[pa.Table]:
    """The training rows whose ids hash lowest and all held-out rows, in the order of their files, some at a time."""
    hashes = (derive_seed(seed, name) for table in read_chunks(TRAIN, SCHEMAS["prompts"], ["id"])
              for name in table["id"].to_pylist())  # fmt: skip
    highest = max(nsmallest(num_references, hashes), default=0)
    for table in read_chunks(TRAIN, SCHEMAS["prompts"]):
        chosen = table.filter(pa.array([derive_seed(seed, name) <= highest for name in table["id"].to_pylist()]))
        yield _of_split("train", chosen)
    for table in read_chunks(HELD_OUT, SCHEMAS["eval"]):
        yield _of_split("eval", table)


def _of_split(split: str, table: pa.Table) -> pa.Table:
    return pa.table([table["id"], pa.array([split] * len(table), pa.string()), table["prompt"], table["reference"]],
                    schema=_REFERENCE)  # fmt: skip


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("baseline", params) as run:
            source, folder = run.state / REFERENCES, MODELS / params.perplexity.scorer
            chosen = references(params.baseline.num_references, run.seed)
            write_chunks(source, rechunk(chosen, ROWS_A_CHUNK), _REFERENCE)
            file, held_out = pq.ParquetFile(source), pq.ParquetFile(HELD_OUT).metadata.num_rows
            given = {"params": params.model_dump_json(by_alias=True, exclude_none=True)}
            first = file.read_row_group(0).to_pylist()
            prompts, texts = ([row[name] for row in first] for name in ("prompt", "reference"))
            noise = measure_noise(Worker(given).scorer, prompts, texts, row_names(first))
            identity = scorer_identity(folder, params.compute.precision, params.perplexity)
            with StepProgress("baseline", num := file.metadata.num_rows) as progress:
                scored = map_chunks(params.compute, "stages.baseline", given, source, run)
                write_baselines(OUT, _told(scored, progress), identity, noise)
            print(f"baseline: {num - held_out:,} train and {held_out:,} held-out references -> {OUT}")


def _told(tables: Iterator[pa.Table], progress: StepProgress) -> Iterator[pa.Table]:
    for table in tables:
        progress.advance(len(table))
        yield table


if __name__ == "__main__":
    guarded(main)
