import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages import baseline
from stages.baseline import references
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
def project(tmp_path: Path, tiny_lm: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with what the stage reads; the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_text(STAGE)
    write_table(tmp_path / "data/processed/prompts.parquet", TRAIN, SCHEMAS["prompts"])
    write_table(tmp_path / "data/processed/eval.parquet", EVAL, SCHEMAS["eval"])
    save_model(tmp_path / "models/sft", tiny_lm(), tiny_tokenizer)
    return tmp_path


@pytest.mark.usefixtures("stages_here")
def test_the_stage_scores_a_sample_of_the_training_references_and_all_held_out_ones(
    project: Path, tiny_lm: Any, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline.main()
    assert "4 train and 2 held-out references" in capsys.readouterr().out

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


@pytest.mark.usefixtures("stages_here")
def test_rays_actors_write_the_bytes_of_one_process(project: Path) -> None:
    """Three chunks of references to two actors, in order."""
    many = [row | {"id": f"m{n}", "prompt": f"{row['prompt']} {n % 5}"} for n in range(600) for row in TRAIN[:1]]
    write_table(project / "data/processed/prompts.parquet", many, SCHEMAS["prompts"])
    params = PARAMS.replace("num_references: 4", "num_references: 600").replace("batch: 256", "batch: 8192")
    (project / "params.yaml").write_text(params)
    baseline.main()
    alone = (project / "data/baselines.parquet").read_bytes()
    (project / "params.yaml").write_text(params.replace("local, num_workers: 1", "ray, num_workers: 2"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.baseline"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "600 train and 2 held-out references" in done.stdout
    assert (project / "data/baselines.parquet").read_bytes() == alone


@pytest.mark.usefixtures("stages_here")
def test_a_reference_that_cannot_be_scored_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With executor: ray, tests/triplex/distributed/test_chunks.py."""
    rows = [TRAIN[0] | {"id": f"m{n}"} for n in range(9)]
    rows[8]["reference"] = " tea" * 200
    write_table(project / "data/processed/prompts.parquet", rows, SCHEMAS["prompts"])
    (project / "params.yaml").write_text(PARAMS.replace("num_references: 4", "num_references: 9"))
    with pytest.raises(SystemExit, match="2"):
        baseline.main()
    assert "train reference 'm8': 405 tokens" in capsys.readouterr().err
    assert not (project / "data/baselines.parquet").exists()


def test_the_sample_depends_on_ids_and_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(Path("data/processed/eval.parquet"), EVAL, SCHEMAS["eval"])

    def chosen(rows: list[dict[str, Any]], num: int, seed: int) -> list[str]:
        write_table(Path("data/processed/prompts.parquet"), rows, SCHEMAS["prompts"])
        names = [name for table in references(num, seed) for name in table["id"].to_pylist()]
        assert names[-2:] == ["e0", "e1"]
        return names[:-2]

    four = chosen(TRAIN, 4, 1)
    assert len(set(four)) == 4
    assert chosen(TRAIN[::-1], 4, 1) == four[::-1]  # in the order of the file
    assert chosen([row for row in TRAIN if row["id"] in four], 4, 1) == four
    assert set(four) < set(chosen(TRAIN, 6, 1))
    assert chosen(TRAIN, 9, 1) == [row["id"] for row in TRAIN]
    assert chosen(TRAIN, 4, 2) != four
