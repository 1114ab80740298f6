"""Digests of tensors, and the rows of a training that is interrupted and resumed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from xxhash import xxh3_128

from triplex.runs.digests import LIVE, DigestRows, digest, publish, read_rows
from triplex.runs.errors import InputError

ROWS: list[dict[str, Any]] = [{"step": step, "loss": 1 / (step + 3), "weights": f"{step:016x}"} for step in range(5)]


def rows_of(state: Path, steps_done: int, rows: list[dict[str, Any]]) -> DigestRows:
    found = DigestRows(state)
    found.resume(steps_done)
    for row in rows:
        found.append(row)
    return found


def test_a_digest_is_that_of_dtype_shape_and_bytes() -> None:
    data = bytes(range(8))
    tensor = torch.tensor(list(data), dtype=torch.uint8).reshape(2, 4)
    expected = hashlib.sha256(b"torch.uint8(2, 4);" + xxh3_128(data).digest()).hexdigest()[:16]
    assert digest([tensor]) == expected
    assert digest([tensor, None]) == hashlib.sha256(
        b"torch.uint8(2, 4);" + xxh3_128(data).digest() + b"none;"
    ).hexdigest()[:16]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_every_bit_counts(dtype: torch.dtype) -> None:
    tensor = torch.zeros(3, 5, dtype=dtype)
    before = digest([tensor])
    tensor[2, 4] = 1
    assert digest([tensor]) != before


def test_a_sign_of_zero_a_shape_a_dtype_and_the_order_count() -> None:
    zero = torch.zeros(4)
    others = [[-zero], [zero.reshape(2, 2)], [zero.int()], [zero, None], [None, zero], [zero[:2], zero[:2]], []]
    assert len({digest(tensors) for tensors in [[zero], *others]}) == 1 + len(others)


def test_it_is_that_of_the_values_however_they_lie_in_memory() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    assert digest([tensor.t()]) == digest([tensor.t().contiguous()])
    assert digest([tensor.requires_grad_()]) == digest([tensor.detach()])


def test_a_resumed_run_has_the_rows_of_all_its_steps(tmp_path: Path) -> None:
    """Four steps are done and a fifth half written when the process dies; the checkpoint knows of two."""
    rows_of(tmp_path, 0, ROWS[:4])
    with (tmp_path / LIVE).open("a") as file:
        file.write('{"step": 4, "lo')
    assert read_rows(tmp_path / LIVE) == ROWS[:4]
    resumed = rows_of(tmp_path, 2, ROWS[2:])
    assert resumed.rows == ROWS
    assert [json.loads(line) for line in (tmp_path / LIVE).read_text().splitlines()] == ROWS


def test_a_new_run_starts_with_none(tmp_path: Path) -> None:
    rows_of(tmp_path, 0, ROWS[:3])
    assert rows_of(tmp_path, 0, []).rows == []
    assert (tmp_path / LIVE).read_text() == ""


@pytest.mark.parametrize("there", [True, False])
def test_fewer_rows_than_steps_of_the_checkpoint_are_told(tmp_path: Path, there: bool) -> None:
    if there:
        rows_of(tmp_path, 0, ROWS[:2])
    with pytest.raises(InputError, match=f"holds {2 if there else 0} of the 3 steps"):
        rows_of(tmp_path, 3, [])


def test_the_trainings_of_a_stage_become_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows_of(tmp_path / "state", 0, ROWS[:2])
    rows_of(tmp_path / "state/preference", 0, ROWS[2:])
    publish("reward", tmp_path / "state", tmp_path / "none", tmp_path / "state/preference")
    assert read_rows(Path("reports/digests/reward.jsonl")) == ROWS
    publish("base", tmp_path / "none")
    assert Path("reports/digests/base.jsonl").read_bytes() == b""
