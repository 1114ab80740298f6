"""Parquet tables with a declared schema and page checksums."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from triplex.runs.errors import InputError
from triplex.runs.files import atomic_path

_id, _text = pa.field("id", pa.string(), nullable=False), pa.string()


def _schema(*columns: str, label: bool = False) -> pa.Schema:
    fields = [_id, *(pa.field(name, _text, nullable=False) for name in columns)]
    return pa.schema([*fields, pa.field("label", pa.int8())] if label else fields)


#: the tables of data/processed; `reference` is the human text of a prompt that responses are measured against, the
#: completion where the data have no other; `label` is 1 positive, 0 negative, null unknown
SCHEMAS = {
    "corpus": _schema("text", label=True),
    "sft": _schema("prompt", "completion", label=True),
    "prompts": _schema("prompt", "reference"),
    "preferences": _schema("prompt", "chosen", "rejected"),
    "eval": _schema("prompt", "completion", "reference", label=True),
}


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write rows as zstd parquet with a checksum on every page, atomically."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def write_chunks(path: str | Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """As `write_table`, from tables that need never stand in memory together; each becomes a row group."""
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for table in tables:
            writer.write_table(table.cast(schema))


def rechunk(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `num_rows`, but for the last."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        while sum(map(len, waiting)) >= num_rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, num_rows)
            waiting = [whole.slice(num_rows)]
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting)


def read_chunks(
    path: str | Path, schema: pa.Schema, columns: Sequence[str] | None = None, rows_at_once: int = 2**14
) -> Iterator[pa.Table]:
    """A parquet file's rows, some at a time, with the errors of `read_table`."""
    with _in_words(path):
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False, buffer_size=2**20)
        _check_schema(path, file.schema_arrow, schema)
        for batch in file.iter_batches(rows_at_once, columns=columns):
            yield pa.Table.from_batches([batch])


def read_table(path: str | Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a whole parquet file, verifying page checksums; InputError when damaged or of another schema."""
    with _in_words(path):
        table = pq.read_table(path, page_checksum_verification=True)
    if schema is not None:
        _check_schema(path, table.schema, schema)
    return table


@contextmanager
def _in_words(path: str | Path) -> Iterator[None]:
    """InputError for a file that is not there or cannot be read."""
    if not Path(path).is_file():
        raise InputError(path, "no such file", "run the stage that writes it: `dvc repro` knows which")
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last one of a column's name
        raise InputError(
            path, f"damaged parquet ({str(error).splitlines()[0]})", "restore it: `dvc checkout`, or write it again"
        ) from error


def _check_schema(path: str | Path, found: pa.Schema, wanted: pa.Schema) -> None:
    if not found.equals(wanted):
        raise InputError(path, f"columns {found.names} do not match the schema {wanted.names}", "run `dvc repro`")
