"""evaluate: base, SFT and every tuned policy on the same held-out prompts."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_table
from triplex.evaluation.evaluate import EvaluateConfig, measure, sample_rows, summarise
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.loading import load_causal_lm
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.folder import load_reward, load_sentiment_part, load_spec
from triplex.runs.errors import errors_in_words
from triplex.runs.files import atomic_path, write_json
from triplex.runs.guard import guarded
from triplex.runs.params import Algorithms, ComputeConfig, Section, Seed, read_params
from triplex.runs.progress import StepProgress
from triplex.runs.stage import run_stage

HELD_OUT, BASELINES = Path("data/processed/eval.parquet"), Path("data/baselines.parquet")
MODELS, REWARD, SFT = Path("models"), Path("models/reward"), Path("models/sft")
REPORT, SAMPLES = Path("reports/eval.json"), Path("reports/samples.parquet")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    algorithms: Algorithms
    evaluate: EvaluateConfig


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("evaluate", params) as run:
            precision, names = params.compute.precision, ["base", "sft", *params.algorithms]
            held_out = read_table(HELD_OUT, SCHEMAS["eval"])
            prompts = list(zip(held_out["id"].to_pylist(), held_out["prompt"].to_pylist(), strict=True))
            references = held_out["reference"].to_pylist()
            reference, tokenizer = load_causal_lm(SFT, precision)
            frozen = HuggingFaceLM(reference, tokenizer)
            levels = load_spec(REWARD).perplexity
            reward = load_reward(REWARD, MODELS / levels.scorer, BASELINES, precision)
            sentiment = load_sentiment_part(REWARD, precision)
            scorer = FrozenScorer(
                reference, tokenizer, max_tokens_per_batch=levels.max_tokens_per_batch, pools=levels.pools()
            )
            tables: dict[str, pa.Table] = {}
            with StepProgress("evaluate", len(names) * len(prompts)) as progress:
                for name in names:
                    model, own_tokenizer = load_causal_lm(MODELS / name, precision)
                    lm = HuggingFaceLM(model, own_tokenizer)
                    rows = sample_rows(name, lm, frozen, own_tokenizer, prompts, params.evaluate, run.seed, progress)
                    tables[name] = measure(rows, references, reward, sentiment, scorer)
            write_json(REPORT, summarise(tables, run.seed))
            with atomic_path(SAMPLES) as temporary:
                pq.write_table(
                    pa.concat_tables(tables.values()), temporary, compression="zstd", write_page_checksum=True
                )
            print(f"evaluate: {len(names)} models on {len(prompts)} held-out prompts -> {REPORT}, {SAMPLES}")


if __name__ == "__main__":
    guarded(main)
