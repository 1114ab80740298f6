"""evaluate: base, SFT and every tuned policy on the same held-out prompts."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_chunks, rechunk, write_chunks
from triplex.distributed.chunks import map_chunks
from triplex.evaluation.evaluate import EvaluateConfig, measure, sample_rows, summarise
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.loading import load_causal_lm
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.folder import load_reward, load_sentiment_part, load_spec
from triplex.runs.errors import errors_in_words
from triplex.runs.files import write_json
from triplex.runs.guard import guarded
from triplex.runs.params import Algorithms, ComputeConfig, Section, Seed, read_params
from triplex.runs.progress import StepProgress
from triplex.runs.stage import run_stage

HELD_OUT, BASELINES = Path("data/processed/eval.parquet"), Path("data/baselines.parquet")
MODELS, REWARD, SFT = Path("models"), Path("models/reward"), Path("models/sft")
REPORT, SAMPLES = Path("reports/eval.json"), Path("reports/samples.parquet")
#: in the stage's state folder: what each model is asked, in chunks that each go through one worker, and the answers
QUESTIONS, ANSWERS = "questions.parquet", "answers.arrow"
_QUESTION = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("model", "id", "prompt", "reference")])


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    algorithms: Algorithms
    evaluate: EvaluateConfig


class Worker:
    """The models in a process, one at a time: questions in, measured answers out."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.params = Params.model_validate_json(given["params"])
        self._seed, self._precision = given["seed"], self.params.compute.precision
        reference, tokenizer = load_causal_lm(SFT, self._precision)
        self._reference = HuggingFaceLM(reference, tokenizer)
        levels = load_spec(REWARD).perplexity
        self._reward = load_reward(REWARD, MODELS / levels.scorer, BASELINES, self._precision)
        self._sentiment = load_sentiment_part(REWARD, self._precision)
        self._scorer = FrozenScorer(
            reference, tokenizer, max_tokens_per_batch=levels.max_tokens_per_batch, pools=levels.pools()
        )
        self._name = ""

    def __call__(self, rows: pa.Table) -> pa.Table:
        (name,) = set(rows["model"].to_pylist())
        if name != self._name:
            model, self._tokenizer = load_causal_lm(MODELS / name, self._precision)
            self._name, self._lm = name, HuggingFaceLM(model, self._tokenizer)
        prompts = list(zip(rows["id"].to_pylist(), rows["prompt"].to_pylist(), strict=True))
        answers = sample_rows(
            name, self._lm, self._reference, self._tokenizer, prompts, self.params.evaluate, self._seed
        )
        return measure(answers, rows["reference"].to_pylist(), self._reward, self._sentiment, self._scorer)


def questions(names: Sequence[str], batch_size: int) -> Iterator[pa.Table]:
    """The held-out prompts to each model, `batch_size` at a time."""
    for name in names:
        for table in rechunk(read_chunks(HELD_OUT, SCHEMAS["eval"]), batch_size):
            columns = [pa.array([name] * len(table)), table["id"], table["prompt"], table["reference"]]
            yield pa.table(columns, schema=_QUESTION)


def kept(path: Path, tables: Iterator[pa.Table]) -> pa.Table:
    """The tables as one, which lies in a file: memory holds what of it is being read."""
    first = next(tables)
    with pa.ipc.new_file(str(path), first.schema) as file:
        for table in chain([first], tables):
            file.write_table(table)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _told(tables: Iterator[pa.Table], progress: StepProgress) -> Iterator[pa.Table]:
    for table in tables:
        progress.advance(len(table))
        yield table


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("evaluate", params) as run:
            names, source = ["base", "sft", *params.algorithms], run.state / QUESTIONS
            write_chunks(source, questions(names, params.evaluate.batch_size), _QUESTION)
            given = {"params": params.model_dump_json(by_alias=True, exclude_none=True), "seed": run.seed}
            with StepProgress("evaluate", pq.ParquetFile(source).metadata.num_rows) as progress:
                measured = map_chunks(params.compute, "stages.evaluate", given, source, run)
                answers = kept(run.state / ANSWERS, _told(measured, progress))
            num = len(answers) // len(names)
            tables = {name: answers.slice(num * i, num) for i, name in enumerate(names)}
            write_json(REPORT, summarise(tables, run.seed))
            write_chunks(SAMPLES, tables.values(), tables["sft"].schema)
            print(f"evaluate: {len(names)} models on {num} prompts -> {REPORT}, {SAMPLES}")


if __name__ == "__main__":
    guarded(main)
