import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.baseline import sample
from triplex.data.tables import SCHEMAS, write_table
from triplex.models.saving import save_model
from triplex.perplexity.baselines import read_baselines, scorer_identity, text_sha256
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.scorer import FrozenScorer

PARAMS = """
seed: 3
compute: {executor: local, num_workers: 1, threads: 1, precision: float32, max_failures: 0,
          deepspeed: {zero_stage: 0, offload: false}}
perplexity:
  max_tokens_per_batch: 256
  template: "{prompt} It is\\n{response}"
  word_pool: {kind: mean}
  phrase_pool: {kind: cvar, q: 0.25}
  sentence_pool: {kind: cvar, q: 0.25}
baseline: {num_references: 4}
"""
STAGE = """
stages:
  baseline:
    cmd: python -m stages.baseline
    deps: [models/sft, data/processed/prompts.parquet, data/processed/eval.parquet]
    outs: [data/baselines.parquet]
"""
ROOT = Path(__file__).parents[2]
TRAIN = [
    {"id": f"t{n}", "prompt": "The chair", "reference": f" broke after {n} weeks. It was cheap!"} for n in range(9)
]
EVAL = [
    {"id": "e0", "prompt": "I like", "completion": " it.", "reference": " this lamp.", "label": 1},
    {"id": "e1", "prompt": "A good book,", "completion": " it", "reference": "", "label": None},
]


@pytest.fixture
def project(tmp_path: Path, tiny_lm: Any, tiny_tokenizer: Any) -> Path:
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_text(STAGE)
    write_table(tmp_path / "data/processed/prompts.parquet", TRAIN, SCHEMAS["prompts"])
    write_table(tmp_path / "data/processed/eval.parquet", EVAL, SCHEMAS["eval"])
    save_model(tmp_path / "models/sft", tiny_lm(), tiny_tokenizer)
    return tmp_path


def test_the_stage_scores_a_sample_of_the_training_references_and_all_held_out_ones(
    project: Path, tiny_lm: Any, tiny_tokenizer: Any
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.baseline"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 train and 2 held-out references" in done.stdout

    config = PerplexityConfig.model_validate(
        {
            "max_tokens_per_batch": 8,
            "template": "{prompt} It is\n{response}",
            "word_pool": {"kind": "mean"},
            "phrase_pool": {"kind": "cvar", "q": 0.25},
            "sentence_pool": {"kind": "cvar", "q": 0.25},
        }
    )
    identity = scorer_identity(project / "models/sft", "float32", config)
    baselines = read_baselines(project / "data/baselines.parquet", identity)
    assert list(baselines.noise) == ["batch", "threads", "precision"]
    rows = baselines.table.to_pylist()
    assert [row["split"] for row in rows] == ["train"] * 4 + ["eval"] * 2
    by_id = {row["id"]: row for row in TRAIN + EVAL}
    scorer = FrozenScorer(tiny_lm(), tiny_tokenizer, pools=config.pools())
    for row in rows:
        source = by_id[row["id"]]
        assert row["prompt_sha256"] == text_sha256(source["prompt"])
        assert row["reference_sha256"] == text_sha256(source["reference"])
        assert row["num_tokens"] == len(tiny_tokenizer(source["reference"], add_special_tokens=False)["input_ids"])
        for before, context in (("", source["prompt"]), ("empty_", source["prompt"] + " It is\n")):
            alone = scorer.level_nats([context], [source["reference"]])[0].tolist()
            levels = [row[f"{before}{level}_nats"] for level in ("token", "word", "phrase", "sentence")]
            assert levels == pytest.approx(alone, abs=1e-5)
    assert rows[-1]["num_tokens"] == 0
    assert rows[-1]["sentence_nats"] == 0


def test_the_sample_depends_on_ids_and_seed_alone() -> None:
    chosen = [row["id"] for row in sample(TRAIN, 4, 1)]
    assert len(set(chosen)) == 4
    assert [row["id"] for row in sample(TRAIN[::-1], 4, 1)] == chosen
    assert [row["id"] for row in sample(TRAIN, 9, 1)][:4] == chosen
    assert [row["id"] for row in sample([row for row in TRAIN if row["id"] in chosen], 4, 1)] == chosen
    assert [row["id"] for row in sample(TRAIN, 9, 2)][:4] != chosen
