"""The training run's tables: a metric row a step, and some completions."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from triplex.runs.files import write_text

COMPLETIONS_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("reward", pa.float64()),
    ]
)


def write_metrics(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Tab-separated, a header and one row a step: what `dvc plots` and the report read."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), dialect="excel-tab", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
