"""The texts of any file as rows to score: a column of it, parted behind the first sentence, or a sample."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from triplex.data.files import open_file
from triplex.perplexity.segment import segment
from triplex.runs.errors import InputError
from triplex.runs.params import nearest
from triplex.runs.seeds import derive_seed


class Row(NamedTuple):
    """A text with what is read before it."""

    id: str
    context: str
    text: str


def read_texts(
    file: Path, file_format: str | None, text_column: str, context_column: str | None, left_out: Counter[str]
) -> list[Row]:
    """The rows of a file; `left_out` counts those whose text is blank. The `id` column names a row, else its number.

    Lines of a .txt file lose the white space around them. InputError as `open_file` has it, and for a column that is
    not there or holds no text.
    """
    opened = open_file(file, file_format=f".{file_format.lstrip('.')}" if file_format else None)
    rows = []
    for record in opened.records():
        text = _text(record.values, text_column, record.where)
        if not text.strip():
            left_out["blank"] += 1
            continue
        context = _text(record.values, context_column, record.where) if context_column else ""
        rows.append(
            Row(str(record.values.get("id", record.number)), context, text.strip() if opened.format == ".txt" else text)
        )
    return rows


def behind_first_sentence(rows: list[Row], left_out: Counter[str]) -> list[Row]:
    """Each text after its first sentence as the context, the space between with the text; `left_out` counts others.

    After an ASCII character a sentence ends at a space only: a full stop inside of `1@.@270` is no end.
    """
    parted = []
    for row in rows:
        end = _first_sentence_end(row.text)
        if end is None:
            left_out["of one sentence"] += 1
        else:
            parted.append(Row(row.id, row.text[:end], row.text[end:]))
    return parted


def _first_sentence_end(text: str) -> int | None:
    starts, sentences = segment(text)
    firsts = (at for at, before, after in zip(starts[1:], sentences, sentences[1:], strict=False) if before != after)
    return next((at for at in firsts if text[at].isspace() or not text[at - 1].isascii()), None)


def sample_texts(rows: list[Row], num_samples: int | None) -> list[Row]:
    """`num_samples` rows at most, in their order; which ones depends on their ids alone."""
    chosen = sorted(range(len(rows)), key=lambda number: derive_seed("sample", rows[number].id))[:num_samples]
    return [rows[number] for number in sorted(chosen)]


def _text(values: Mapping[str, Any], column: str, where: str) -> str:
    if column not in values:
        raise InputError(where, f"no column {column!r}", nearest(column, values))
    if not isinstance(values[column], str):
        found = "null" if values[column] is None else type(values[column]).__name__
        raise InputError(where, f"{column} holds {found}, not text", "name the column of the texts, and mend the row")
    return values[column]
