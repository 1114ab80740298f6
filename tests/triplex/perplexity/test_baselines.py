import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from triplex.models.saving import save_model
from triplex.perplexity.baselines import (
    EMPTY_COLUMNS,
    NATS_COLUMNS,
    SCHEMA,
    read_baselines,
    score_baselines,
    scorer_identity,
    text_sha256,
    to_table,
    write_baselines,
)
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.errors import InputError

CONFIG = PerplexityConfig.model_validate(
    {
        "max_tokens_per_batch": 64,
        "template": "{prompt}{response}",
        "word_pool": {"kind": "mean"},
        "phrase_pool": {"kind": "cvar", "q": 0.25},
        "sentence_pool": {"kind": "lme", "lambda": 1.0},
    }
)
IDENTITY = {"weights": "a", "precision": "float32"}


NOISE = {
    "batch": {"token": 9.0, "word": 0.1, "phrase": 0.2, "sentence": 0.3},
    "threads": {"token": 9.0, "word": 0.4, "phrase": 0.0, "sentence": 0.0},
    "precision": {"token": 9.0, "word": 9.0, "phrase": 9.0, "sentence": 9.0},
}


def row(number: int, num_tokens: int, *nats: float) -> dict[str, Any]:
    levels = dict(zip(NATS_COLUMNS + EMPTY_COLUMNS, nats, strict=True))
    hashes = {"prompt_sha256": text_sha256("p"), "reference_sha256": text_sha256(f"r{number}")}
    return {"id": str(number), "split": "train", **hashes, "num_tokens": num_tokens, **levels}


ROWS = [row(0, 4, 1, 2, 3, 4, 5, 6, 7, 8), row(1, 6, 3, 2, 5, 8, 9, 8, 7, 6), row(2, *[0] * 9)]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "baselines.parquet"
    write_baselines(path, [to_table(ROWS)], IDENTITY, NOISE)
    baselines = read_baselines(path, IDENTITY)
    assert baselines.table.to_pylist() == ROWS
    assert baselines.table.schema.equals(SCHEMA)
    assert baselines.noise == NOISE
    assert json.loads(pq.read_schema(path).metadata[b"scorer"]) == IDENTITY


def test_another_scorer_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "baselines.parquet"
    write_baselines(path, [to_table(ROWS)], IDENTITY, NOISE)
    with pytest.raises(InputError, match="made by another scorer: precision was float32, is bfloat16\n") as error:
        read_baselines(path, {**IDENTITY, "precision": "bfloat16"})
    assert "weights" not in str(error.value)
    with pytest.raises(InputError, match="segmenter was not recorded, is x"):
        read_baselines(path, {**IDENTITY, "segmenter": "x"})


def test_a_table_without_an_identity_or_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "baselines.parquet"
    write_baselines(path, [to_table(ROWS)], IDENTITY, NOISE)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path, write_page_checksum=True)
    with pytest.raises(InputError, match="weights was not recorded"):
        read_baselines(path, IDENTITY)
    pq.write_table(pq.read_table(path).drop_columns("token_nats"), path, write_page_checksum=True)
    with pytest.raises(InputError, match="do not match the schema"):
        read_baselines(path, IDENTITY)
    with pytest.raises(InputError, match="no such file"):
        read_baselines(tmp_path / "none.parquet", IDENTITY)


def test_the_identity_changes_with_everything_that_changes_the_numbers(
    tmp_path: Path, tiny_lm: Any, tiny_tokenizer: Any
) -> None:
    save_model(tmp_path / "a", tiny_lm(), tiny_tokenizer)
    save_model(tmp_path / "b", tiny_lm(seed=1), tiny_tokenizer)
    first = scorer_identity(tmp_path / "a", "float32", CONFIG)
    save_model(tmp_path / "again", tiny_lm(), tiny_tokenizer)
    assert scorer_identity(tmp_path / "again", "float32", CONFIG) == first

    def differing(other: dict[str, str]) -> list[str]:
        return [name for name in first if first[name] != other[name]]

    assert differing(scorer_identity(tmp_path / "b", "float32", CONFIG)) == ["weights"]
    assert differing(scorer_identity(tmp_path / "a", "bfloat16", CONFIG)) == ["precision"]
    pools = CONFIG.model_copy(update={"phrase_pool": CONFIG.word_pool})
    assert differing(scorer_identity(tmp_path / "a", "float32", pools)) == ["pools"]
    template = CONFIG.model_copy(update={"template": "{prompt} {response}"})
    assert differing(scorer_identity(tmp_path / "a", "float32", template)) == ["template"]
    batches = CONFIG.model_copy(update={"max_tokens_per_batch": 8})
    assert differing(scorer_identity(tmp_path / "a", "float32", batches)) == []
    (tmp_path / "again" / "tokenizer.json").write_text("{}")
    assert differing(scorer_identity(tmp_path / "again", "float32", CONFIG)) == ["tokenizer.json"]
    (tmp_path / "again" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file"):
        scorer_identity(tmp_path / "again", "float32", CONFIG)


@pytest.fixture
def read_rows(tmp_path: Path) -> Any:
    def write_and_read(rows: list[dict[str, Any]]) -> Any:
        write_baselines(tmp_path / "t", [to_table(rows)], IDENTITY, NOISE)
        return read_baselines(tmp_path / "t", IDENTITY)

    return write_and_read


def test_moments_by_hand_leave_out_empty_references(read_rows: Any) -> None:
    mean, std = read_rows(ROWS).moments()
    assert mean.tolist() == [2, 2, 4, 6]
    assert std.tolist() == pytest.approx([2**0.5, 0, 2**0.5, 8**0.5])
    assert mean.dtype == std.dtype == torch.float32


def test_moments_of_too_few_references_are_refused(read_rows: Any) -> None:
    with pytest.raises(InputError, match="1 references that hold a token"):
        read_rows(ROWS[1:]).moments()


def test_the_empty_baselines_are_found_by_both_texts(read_rows: Any) -> None:
    baselines = read_rows(ROWS)
    assert baselines.empty_nats(["p", "p", "p"], ["r1", "r0", "r1"]).tolist() == [
        [9, 8, 7, 6],
        [5, 6, 7, 8],
        [9, 8, 7, 6],
    ]
    assert baselines.empty_nats([], []).shape == (0, 4)
    missing = "row 1: no baseline for the reference 'r3' of the prompt 'p'\n  remedy: raise baseline.num_references"
    with pytest.raises(InputError, match=missing):
        baselines.empty_nats(["p", "p"], ["r0", "r3"])
    with pytest.raises(InputError, match="of the prompt 'q'"):
        baselines.empty_nats(["q"], ["r0"])


def test_the_noise_floor_by_hand(read_rows: Any) -> None:
    """Of word 0.4, phrase 0.2 and sentence 0.3 nats, at weights 0.2, 0.3 and 0.5: 0.29 nats."""
    baselines = read_rows(ROWS)
    assert baselines.noise_floor_pct((0.2, 0.3, 0.5)) == pytest.approx(100 * (1 - math.exp(-0.29)))
    assert baselines.noise_floor_pct((1, 0, 0)) == pytest.approx(100 * (1 - math.exp(-0.4)))
    with pytest.raises(ValueError, match="weights"):
        baselines.noise_floor_pct((0.2, 0.3))


REFERENCES = [
    {"id": "a", "split": "train", "prompt": "The chair", "reference": " broke after a week. It was cheap!"},
    {"id": "b", "split": "eval", "prompt": "I like", "reference": " this lamp."},
    {"id": "c", "split": "eval", "prompt": "I like", "reference": ""},
]


@pytest.mark.parametrize("template", ["{prompt}{response}", "{prompt} Plan:\n{response}"])
def test_references_are_scored_after_the_prompt_and_after_an_empty_response(
    template: str, tiny_lm: Any, tiny_tokenizer: Any
) -> None:
    scorer = FrozenScorer(tiny_lm(), tiny_tokenizer, pools=CONFIG.pools())
    counts: list[int] = []
    rows = score_baselines(scorer, CONFIG.model_copy(update={"template": template}), REFERENCES, counts.append)
    assert counts == [3]
    for source, got in zip(REFERENCES, rows, strict=True):
        assert [got["id"], got["split"]] == [source["id"], source["split"]]
        assert got["prompt_sha256"] == text_sha256(source["prompt"])
        assert got["reference_sha256"] == text_sha256(source["reference"])
        for columns, between in ((NATS_COLUMNS, ""), (EMPTY_COLUMNS, " Plan:\n" if "Plan" in template else "")):
            alone = scorer.score([source["prompt"] + between], [source["reference"]])[0]
            assert got["num_tokens"] == len(alone.nats)
            assert [got[name] for name in columns] == pytest.approx(alone.levels.tolist(), abs=1e-5)
    same = [[got[name] for name in NATS_COLUMNS] == [got[name] for name in EMPTY_COLUMNS] for got in rows]
    assert same == ([False, False, True] if "Plan" in template else [True] * 3)


def test_where_the_template_adds_nothing_nothing_is_scored_twice(tiny_lm: Any, tiny_tokenizer: Any) -> None:
    model, passes = tiny_lm(), []
    scorer = FrozenScorer(model, tiny_tokenizer)
    model.register_forward_hook(lambda *_: passes.append(1))
    model.transformer.register_forward_hook(lambda *_: passes.append(1))
    score_baselines(scorer, CONFIG, REFERENCES)
    assert len(passes) == 1
    score_baselines(scorer, CONFIG.model_copy(update={"template": "{prompt} {response}"}), REFERENCES[:0])
    assert len(passes) == 1


def test_a_reference_that_cannot_be_scored_is_named_by_split_and_id(tiny_lm: Any, tiny_tokenizer: Any) -> None:
    rows = [*REFERENCES, {"id": "long", "split": "eval", "prompt": "I", "reference": " I" * 64}]
    with pytest.raises(InputError, match="eval reference 'long': 66 tokens of context and text, the model takes 64"):
        score_baselines(FrozenScorer(tiny_lm(), tiny_tokenizer), CONFIG, rows)
