import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from triplex.models.saving import save_model
from triplex.perplexity.baselines import (
    SCHEMA,
    level_moments,
    read_baselines,
    scorer_identity,
    text_sha256,
    write_baselines,
)
from triplex.perplexity.config import PerplexityConfig
from triplex.runs.errors import InputError

CONFIG = PerplexityConfig.model_validate(
    {
        "max_tokens_per_batch": 64,
        "word_pool": {"kind": "mean"},
        "phrase_pool": {"kind": "cvar", "q": 0.25},
        "sentence_pool": {"kind": "lme", "lambda": 1.0},
    }
)
IDENTITY = {"weights": "a", "precision": "float32"}


def row(number: int, num_tokens: int, *nats: float) -> dict[str, Any]:
    levels = dict(zip(("token_nats", "word_nats", "phrase_nats", "sentence_nats"), nats, strict=True))
    hashes = {"prompt_sha256": text_sha256("p"), "reference_sha256": text_sha256("r")}
    return {"id": str(number), "split": "train", **hashes, "num_tokens": num_tokens, **levels}


ROWS = [row(0, 4, 1, 2, 3, 4), row(1, 6, 3, 2, 5, 8), row(2, 0, 0, 0, 0, 0)]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "baselines.parquet"
    write_baselines(path, ROWS, IDENTITY)
    table = read_baselines(path, IDENTITY)
    assert table.to_pylist() == ROWS
    assert table.schema.equals(SCHEMA)
    assert json.loads(pq.read_schema(path).metadata[b"scorer"]) == IDENTITY


def test_another_scorer_is_refused_by_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "baselines.parquet"
    write_baselines(path, ROWS, IDENTITY)
    with pytest.raises(InputError, match="made by another scorer: precision was float32, is bfloat16\n") as error:
        read_baselines(path, {**IDENTITY, "precision": "bfloat16"})
    assert "weights" not in str(error.value)
    with pytest.raises(InputError, match="segmenter was not recorded, is x"):
        read_baselines(path, {**IDENTITY, "segmenter": "x"})


def test_a_table_without_an_identity_or_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "baselines.parquet"
    write_baselines(path, ROWS, IDENTITY)
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
    assert differing(scorer_identity(tmp_path / "a", "float32", pools)) == ["profile"]
    batches = CONFIG.model_copy(update={"max_tokens_per_batch": 8})
    assert differing(scorer_identity(tmp_path / "a", "float32", batches)) == []
    (tmp_path / "again" / "tokenizer.json").write_text("{}")
    assert differing(scorer_identity(tmp_path / "again", "float32", CONFIG)) == ["tokenizer.json"]
    (tmp_path / "again" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file"):
        scorer_identity(tmp_path / "again", "float32", CONFIG)


def test_moments_by_hand_leave_out_empty_references(tmp_path: Path) -> None:
    write_baselines(tmp_path / "t", ROWS, IDENTITY)
    mean, std = level_moments(read_baselines(tmp_path / "t", IDENTITY))
    assert mean.tolist() == [2, 2, 4, 6]
    assert std.tolist() == pytest.approx([2**0.5, 0, 2**0.5, 8**0.5])
    assert mean.dtype == std.dtype == torch.float32


def test_moments_of_too_few_references_are_refused(tmp_path: Path) -> None:
    write_baselines(tmp_path / "t", ROWS[1:], IDENTITY)
    with pytest.raises(InputError, match="1 references that hold a token"):
        level_moments(read_baselines(tmp_path / "t", IDENTITY))
