"""The same chunks through this process and through Ray's actors."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from triplex.data.tables import read_chunks, rechunk, write_chunks
from triplex.distributed.chunks import map_chunks
from triplex.distributed.ray_cluster import ADDRESS
from triplex.runs.errors import InputError
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run

SCHEMA = pa.schema([("number", pa.int64())])
RESULT = pa.schema([("number", pa.int64()), ("square", pa.int64())])


@pytest.fixture
def squares(tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """`squares("ray", kill_at=30)`: the bytes of the file that comes of 95 numbers in chunks of 10."""
    monkeypatch.setenv(ADDRESS, head)
    source = tmp_path / "numbers.parquet"
    write_chunks(source, rechunk([pa.table({"number": range(95)})], 10), SCHEMA)

    def start(executor: str, **given: Any) -> bytes:
        compute = ComputeConfig.model_validate({
            "executor": executor, "num_workers": 2 if executor == "ray" else 1, "threads": 1, "precision": "float32",
            "deepspeed": {"zero_stage": 0, "offload": False}, "max_failures": 1,
        })  # fmt: skip
        given = {"folder": str(tmp_path)} | given
        tables = map_chunks(compute, "tests.triplex.distributed.squares_work", given, source, Run("x", 7, tmp_path))
        write_chunks(tmp_path / f"{executor}.parquet", tables, RESULT)
        return (tmp_path / f"{executor}.parquet").read_bytes()

    return start


def test_an_actor_that_dies_changes_no_byte(squares: Callable[..., bytes], tmp_path: Path) -> None:
    alone = squares("local")
    assert squares("ray", kill_at=30) == alone
    assert (tmp_path / "killed").exists()
    table = pq.read_table(tmp_path / "ray.parquet").to_pylist()
    assert table == [{"number": n, "square": n * n} for n in range(95)]


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_what_a_worker_finds_wrong_is_told_and_nothing_is_written(
    squares: Callable[..., bytes], tmp_path: Path, executor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"number 60: something is wrong\n  remedy: mend it"):
        squares(executor, wrong_at=60)
    assert not (tmp_path / f"{executor}.parquet").exists()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_tables_are_cut_anew_without_a_row_lost() -> None:
    tables = [pa.table({"number": pa.array(range(a, b), pa.int64())}) for a, b in ((0, 3), (3, 3), (3, 20), (20, 21))]
    cut = list(rechunk(tables, 5))
    assert [len(table) for table in cut] == [5, 5, 5, 5, 1]
    assert pa.concat_tables(cut)["number"].to_pylist() == list(range(21))
    assert list(rechunk([], 5)) == list(rechunk([tables[1]], 5)) == []


def test_a_large_file_is_read_and_written_in_little_memory(tmp_path: Path) -> None:
    """40 MB of text pass through some hundred kilobytes of Python and a bounded pool of Arrow's."""
    schema = pa.schema([("text", pa.string())])
    table = pa.table({"text": [f"{n} " + "word " * 100 for n in range(1000)]})
    write_chunks(tmp_path / "large.parquet", (table for _ in range(80)), schema)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    held = []

    def watched() -> Any:
        for some in read_chunks(tmp_path / "large.parquet", schema, rows_at_once=500):
            held.append(pa.total_allocated_bytes() - before)
            yield some

    write_chunks(tmp_path / "copy.parquet", rechunk(watched(), 700), schema)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    assert max(held) < 8e6
    assert pq.read_metadata(tmp_path / "copy.parquet").num_rows == 80_000
