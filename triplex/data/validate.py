"""Every problem of a data file, not the first alone: the readers and rules of the pipeline, gone on with."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from triplex.data.files import InputFile, Record, open_file, parse_object
from triplex.data.rows import Row, form_of, read_rows
from triplex.data.sources import Columns, by_role
from triplex.runs.errors import InputError

Refuse = Callable[[InputError], None]


@dataclass(frozen=True)
class Findings:
    """The rows that can be used, the problems in the order of the file, what was counted (`read`, `empty`, ...)."""

    rows: list[Row]
    problems: list[InputError]
    counts: Counter[str]


def validate(
    path: Path,
    prompt_words: int,
    max_words: int,
    columns: Columns | None = None,
    delimiter: str = ",",
    file_format: str | None = None,
) -> Findings:
    """What `prepare` would say of each row of a file; one problem a row at most.

    What spoils the file as a whole, such as bytes that are not UTF-8, a torn CSV or a column that a table lacks, is
    the last problem: nothing behind it can be read.
    """
    problems: list[InputError] = []
    counts: Counter[str] = Counter()
    rows: list[Row] = []
    try:
        file = open_file(path, delimiter, file_format)
        if file.format in (".csv", ".parquet"):  # all rows have the columns of the first
            form_of(by_role(next(file.records()), columns or {}))
        records = _by_role(every_record(file, problems.append), columns or {}, problems.append)
        rows.extend(read_rows(records, prompt_words, max_words, counts, problems.append))
        if not rows and not problems:
            problems.append(InputError(path, "no row with text", "check the file and its columns"))
    except InputError as error:
        problems.append(error)
    return Findings(rows, problems, counts)


def every_record(file: InputFile, refuse: Refuse) -> Iterator[Record]:
    """The records of a file; a line of .jsonl that is no object goes to `refuse`, and the next one is read."""
    if file.format != ".jsonl":
        yield from file.records()
        return
    for line in replace(file, format=".txt").records():
        text = line.values["text"]
        if text.isspace():
            continue
        try:
            yield replace(line, values=parse_object(text, line.where))
        except InputError as error:
            refuse(error)


def _by_role(records: Iterator[Record], columns: Columns, refuse: Refuse) -> Iterator[Record]:
    for record in records:
        try:
            yield by_role(record, columns)
        except InputError as error:
            refuse(error)
