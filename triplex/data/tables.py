"""Parquet tables with a declared schema and page checksums."""

from collections.abc import Iterable, Mapping
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


def read_table(path: str | Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a whole parquet file, verifying page checksums; InputError when damaged or of another schema."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "run the stage that writes it: `dvc repro` knows which")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last one of a column's name
        raise InputError(
            path, f"damaged parquet ({str(error).splitlines()[0]})", "restore it: `dvc checkout`, or write it again"
        ) from error
    if schema is not None and not table.schema.equals(schema):
        raise InputError(
            path, f"columns {table.schema.names} do not match the schema {schema.names}", "run `dvc repro`"
        )
    return table
