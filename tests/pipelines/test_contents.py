"""Two files of each kind that differ in one place, and that place named."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipelines.contents import differing_keys, first_difference, same_bytes


def two(tmp_path: Path, suffix: str, one: str, other: str) -> tuple[Path, Path]:
    paths = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for path, text in zip(paths, (one, other), strict=True):
        path.write_text(text)
    return paths


def test_of_a_model_the_tensor_the_element_and_both_values(tmp_path: Path) -> None:
    tensors = {"b": torch.zeros(2, 3), "a": torch.arange(4.0)}
    save_file(tensors, tmp_path / "a.safetensors")
    tensors["b"][1, 2] = 0.5
    save_file(tensors, tmp_path / "b.safetensors")
    assert first_difference(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == "tensor b[1, 2]: 0.0 | 0.5"


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"w": torch.zeros(3)}, "tensor w: torch.float32 (2,) | torch.float32 (3,)"),
        ({"w": torch.zeros(2, dtype=torch.bfloat16)}, "tensor w: torch.float32 (2,) | torch.bfloat16 (2,)"),
        ({"v": torch.zeros(2)}, "tensor v: absent | there"),
        ({"w": torch.tensor([0.0, -0.0])}, "tensor w[1]: 0.0 | -0.0"),
        ({"w": torch.tensor([0.0, float("nan")])}, "tensor w[1]: 0.0 | nan"),
    ],
)
def test_shapes_types_names_and_signs(tmp_path: Path, other: dict[str, torch.Tensor], expected: str) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    save_file(other, tmp_path / "b.safetensors")
    assert first_difference(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == expected


def test_of_a_table_the_column_and_the_row(tmp_path: Path) -> None:
    columns = {"id": ["a", "b", "c"], "ids": [[1, 2], [3], []], "score": [0.5, None, 0.25]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    pq.write_table(pa.table(columns | {"ids": [[1, 2], [4], []]}), tmp_path / "b.parquet")
    assert first_difference(tmp_path / "a.parquet", tmp_path / "b.parquet") == "column ids, row 1[0]: 3 | 4"
    pq.write_table(pa.table(columns).slice(0, 2), tmp_path / "c.parquet")
    assert first_difference(tmp_path / "a.parquet", tmp_path / "c.parquet") == "rows: 3 | 2"
    pq.write_table(pa.table(columns).rename_columns(["id", "ids", "total"]), tmp_path / "d.parquet")
    found = first_difference(tmp_path / "a.parquet", tmp_path / "d.parquet")
    assert found is not None
    assert "score" in found
    assert "total" in found


@pytest.mark.parametrize(
    ("suffix", "one", "other", "expected"),
    [
        (".json", '{"a": {"b": [1, 2]}}', '{"a": {"b": [1, 3]}}', "a.b[1]: 2 | 3"),
        (".json", '{"a": 1}', '{"a": 1, "c": null}', "c: absent | null"),
        (".json", '{"a": 1}', '{"a":  1}', "byte 6: 0x31 | 0x20"),
        (".jsonl", '{"s": 0}\n{"s": 1}\n', '{"s": 0}\n{"s": 2}\n', "line 2.s: 1 | 2"),
        (".jsonl", '{"s": 0}\n{"s": 1}\n', '{"s": 0}\n', "lines: 2 | 1"),
        (".tsv", "step\tkl\n0\t0.5\n1\t0.5\n", "step\tkl\n0\t0.5\n1\t0.25\n", "line 3, column kl: 0.5 | 0.25"),
        (".tsv", "step\tkl\n", "step\tklk\n", 'header[1]: "kl" | "klk"'),
        (".txt", "a\nb\n", "a\nc\n", 'line 2: "b" | "c"'),
        (".png", "abc", "abd", "byte 2: 0x63 | 0x64"),
        (".png", "abc", "abcd", "bytes: 3 | 4"),
    ],
)
def test_of_a_text_the_key_or_the_line(tmp_path: Path, suffix: str, one: str, other: str, expected: str) -> None:
    assert first_difference(*two(tmp_path, suffix, one, other)) == expected


def test_a_damaged_file_is_compared_by_its_bytes(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[0] ^= 255
    (tmp_path / "b.safetensors").write_bytes(content)
    found = first_difference(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found == f"byte 0: 0x{content[0] ^ 255:02x} | 0x{content[0]:02x}"


def test_equal_files_do_not_differ(tmp_path: Path) -> None:
    one, other = two(tmp_path, ".bin", "x" * 3_000_000, "x" * 3_000_000)
    assert same_bytes(one, other)
    assert first_difference(one, other) is None
    other.write_text("x" * 2_999_999 + "y")
    assert not same_bytes(one, other)


@pytest.mark.parametrize(("value", "is_close"), [(100.0, True), (100.09, True), (100.2, False)])
def test_within_a_tolerance_numbers_are_equal(tmp_path: Path, value: float, is_close: bool) -> None:
    """|a - b| <= 0.001 (1 + |b|)."""
    for suffix, form in ((".json", json.dumps), (".tsv", "x\n{}\n".format)):
        assert (first_difference(*two(tmp_path, suffix, form(100.0), form(value)), 1e-3) is None) == is_close
    for path, number in ((tmp_path / "a.safetensors", 100.0), (tmp_path / "b.safetensors", value)):
        save_file({"w": torch.tensor([1.0, number])}, path)
    assert (first_difference(tmp_path / "a.safetensors", tmp_path / "b.safetensors", 1e-3) is None) == is_close
    for path, number in ((tmp_path / "a.parquet", 100.0), (tmp_path / "b.parquet", value)):
        pq.write_table(pa.table({"x": np.array([number])}), path)
    assert (first_difference(tmp_path / "a.parquet", tmp_path / "b.parquet", 1e-3) is None) == is_close


def test_within_a_tolerance_texts_are_not(tmp_path: Path) -> None:
    assert first_difference(*two(tmp_path, ".json", '["a"]', '["b"]'), 1e-3) == '[0]: "a" | "b"'
    assert first_difference(*two(tmp_path, ".png", "a", "b"), 1e-3) is None


def test_every_differing_key_is_told() -> None:
    one, other = {"a": 1, "b": {"c": True, "d": 2.0}}, {"a": 2, "b": {"c": 1, "d": 2}, "e": []}
    assert list(differing_keys(one, other)) == ["a: 1 | 2", "b.c: true | 1", "b.d: 2.0 | 2", "e: absent | []"]
