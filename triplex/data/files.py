"""A text, CSV, JSON or parquet file as records; what is wrong with it is an InputError that says where."""

import csv
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from triplex.runs.errors import InputError
from triplex.runs.files import sha256_file
from triplex.runs.params import nearest

FORMATS = (".txt", ".csv", ".json", ".jsonl", ".parquet")
MAX_LINE_BYTES = 10_000_000
MAX_JSON_BYTES = 100_000_000  # an array is parsed whole, and may stand on one line
MAX_PACKING_RATIO = 100  # a parquet file that unpacks to more than this many times its size is refused
BATCH_ROWS = 1000

_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz",
}  # fmt: skip
_DVC_POINTER = re.compile(rb"^outs:\s*\n\s*- ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Record:
    """One row: where it stands, its values by column (later: by role) and the columns that are left unread."""

    source: str
    unit: str
    number: int
    values: dict[str, Any]
    ignored: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """E.g. `reviews.jsonl line 17`; rows of CSV and parquet are counted from 1, the header not among them."""
        return f"{self.source} {self.unit} {self.number}"


@dataclass(frozen=True)
class InputFile:
    """A file that passed the examination of its bytes."""

    path: Path
    format: str  # one of FORMATS
    sha256: str
    num_bytes: int
    delimiter: str
    identity: tuple[int, ...]

    def records(self) -> Iterator[Record]:
        """The records in file order; InputError at the first that cannot be read, when there is none, or when the
        file is no longer the one that was examined."""
        empty = True
        try:
            for record in _READERS[self.format](self):
                empty = False
                yield record
        except InputError:
            self._refuse_if_changed()  # the likelier reason
            raise
        self._refuse_if_changed()
        if empty:
            raise InputError(self.path, "no rows", "a file holds one row at least, beside the header")

    def _refuse_if_changed(self) -> None:
        if not self.path.is_file() or _identity(self.path) != self.identity:
            raise InputError(self.path, "changed while it was read", "wait until it is written, then start again")


def open_file(path: Path, delimiter: str = ",", file_format: str | None = None) -> InputFile:
    """Examine `path`: a regular file of a known format, not packed, not a pointer, text valid and lines not too long.

    `delimiter` is for CSV; the format is that of the ending when none is given. The SHA-256 is of its bytes.
    """
    path = path.expanduser()
    _refuse_unless_regular(path)
    file_format = file_format or path.suffix.lower()
    if file_format not in FORMATS:
        remedy = f"name it by what it is ({', '.join(FORMATS)}), or give its `format`"
        raise InputError(path, f"unknown format {file_format!r}", remedy)
    identity = _identity(path)
    _refuse_by_content(path, file_format)
    if file_format == ".json" and path.stat().st_size > MAX_JSON_BYTES:
        what = f"{path.stat().st_size} bytes, above the limit of {MAX_JSON_BYTES} for one array"
        raise InputError(path, what, f"one object a line: jq -c '.[]' {path} > {path.stem}.jsonl")
    limit = MAX_JSON_BYTES if file_format == ".json" else MAX_LINE_BYTES
    digest = sha256_file(path) if file_format == ".parquet" else _examine_text(path, limit)
    return InputFile(path, file_format, digest, path.stat().st_size, delimiter, identity)


def arrow_records(source: str, batches: Iterator[pa.RecordBatch]) -> Iterator[Record]:
    """The rows of Arrow batches as records; dictionary and large strings come out as plain ones."""
    number = 0
    for batch in batches:
        batch.validate(full=True)
        for values in batch.to_pylist():
            number += 1
            yield Record(source, "row", number, values)


def _identity(path: Path) -> tuple[int, ...]:
    now = path.stat()
    return now.st_ino, now.st_size, now.st_mtime_ns


def _refuse_unless_regular(path: Path) -> None:
    try:
        mode, size, readable = path.stat().st_mode, path.stat().st_size, os.access(path, os.R_OK)
    except OSError as error:
        raise InputError(path, (error.strerror or "cannot be opened").lower(), _remedy_if_missing(path)) from error
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe, socket or device"
        raise InputError(path, f"a {kind}, not a file", "name the file itself")
    if not readable:
        raise InputError(path, "no permission to read it", f"chmod u+r {path}")
    named, real, project = Path(os.path.abspath(path)), path.resolve(), Path.cwd()
    if named.is_relative_to(project) and not real.is_relative_to(project):
        raise InputError(path, f"a link to {real}, outside the project", "name that file by its own path")
    if size == 0:
        raise InputError(path, "empty, 0 bytes", "download or write it again")


def _remedy_if_missing(path: Path) -> str:
    if path.is_symlink():
        return f"it is a link to {path.readlink()}; name the file itself"
    if path.with_name(f"{path.name}.dvc").is_file():
        return f"run `dvc pull {path}`"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    files = [file.name for file in path.parent.iterdir() if file.suffix.lower() in FORMATS]
    return nearest(path.name, files) if files else f"no {', '.join(FORMATS)} file is in {path.parent}"


def _refuse_by_content(path: Path, file_format: str) -> None:
    with path.open("rb") as file:
        head = file.read(4096)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(path, f"packed with {name}", f"unpack it first; plain {file_format} is read")
    if head.startswith(b"version https://git-lfs.github.com/spec/v1"):
        raise InputError(path, "a Git LFS pointer, not the data", f"run `git lfs pull --include {path}`")
    if _DVC_POINTER.search(head) and b"md5:" in head:
        raise InputError(path, "a .dvc pointer, not the data", "run `dvc pull`, and name the data file")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(path, "UTF-16, not UTF-8, at byte 0", f"iconv -f utf-16 -t utf-8 {path} > new{path.suffix}")
    if head.startswith(b"PAR1") and file_format != ".parquet":
        raise InputError(path, f"parquet, read as {file_format}", "rename it to .parquet")


def _examine_text(path: Path, max_line_bytes: int) -> str:
    """SHA-256 of a text file whose every line is short enough, UTF-8 and free of NUL."""
    digest, offset, number = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while line := file.readline(max_line_bytes + 1):
            number += 1
            where = f"{path} line {number}"
            if len(line) > max_line_bytes:
                raise InputError(where, f"longer than {max_line_bytes} bytes", "one row a line; cut long texts")
            if b"\0" in line:
                raise InputError(where, f"NUL at byte {offset + line.index(0)}", "save the file as UTF-8 text")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                what = f"not UTF-8 at byte {offset + error.start} (0x{line[error.start]:02x})"
                remedy = f"when it is Latin-1: iconv -f latin1 -t utf-8 {path} > new{path.suffix}"
                raise InputError(where, what, remedy) from error
            digest.update(line)
            offset += len(line)
    return digest.hexdigest()


def _read_txt(file: InputFile) -> Iterator[Record]:
    with file.path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            yield Record(str(file.path), "line", number, {"text": line})


def _read_jsonl(file: InputFile) -> Iterator[Record]:
    with file.path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.isspace():
                yield Record(str(file.path), "line", number, parse_object(line, f"{file.path} line {number}"))


def _read_json(file: InputFile) -> Iterator[Record]:
    """One array of objects."""
    try:
        values = json.loads(file.path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        remedy = "one array of objects, or one object a line in a file that ends with .jsonl"
        raise InputError(f"{file.path} line {error.lineno} column {error.colno}", error.msg, remedy) from error
    except (ValueError, RecursionError) as error:  # NaN, a number of thousands of digits, thousands of brackets
        raise InputError(file.path, str(error), "write objects of text and plain numbers") from error
    if not isinstance(values, list):
        raise InputError(file.path, f"holds {type(values).__name__}, not an array", 'write [{"text": "..."}, ...]')
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise InputError(f"{file.path} object {number}", f"holds {type(value).__name__}", "objects are read")
        yield Record(str(file.path), "object", number, value)


def parse_object(line: str, where: str) -> dict[str, Any]:
    """The object of one line of a .jsonl file; InputError for anything else."""
    if line.lstrip().startswith("["):
        raise InputError(where, "a JSON array; one object a line is read", "rename the file to .json")
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} column {error.colno}", error.msg, "one whole JSON object a line") from error
    except (ValueError, RecursionError) as error:  # NaN, a number of thousands of digits, thousands of brackets
        raise InputError(where, str(error), "one JSON object of text and plain numbers a line") from error
    if not isinstance(value, dict):
        raise InputError(where, f"holds {type(value).__name__}, not an object", 'one object a line: {"text": "..."}')
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_csv(file: InputFile) -> Iterator[Record]:
    names = _csv_header(file)
    try:
        reader = pacsv.open_csv(
            file.path,
            pacsv.ReadOptions(use_threads=False, block_size=2 * MAX_LINE_BYTES),
            pacsv.ParseOptions(delimiter=file.delimiter, newlines_in_values=True),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
        yield from arrow_records(str(file.path), iter(reader))
    except pa.ArrowInvalid as error:
        raise _csv_error(file, str(error).splitlines()[0]) from error


def _csv_header(file: InputFile) -> list[str]:
    with file.path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            names = next(filter(None, csv.reader(lines, delimiter=file.delimiter)), [])
        except csv.Error as error:
            raise InputError(f"{file.path} header", str(error), "the first line names the columns") from error
    other = [mark for mark in ";\t|," if mark != file.delimiter and mark in "".join(names)]
    if len(names) == 1 and other:
        what = f"one column {names[0]!r}: the delimiter is not {file.delimiter!r}"
        raise InputError(file.path, what, f'delimiter: "{other[0]}"')
    if len(set(names)) < len(names):
        raise InputError(file.path, f"a column name occurs twice in {names}", "rename the columns")
    return names


def _csv_error(file: InputFile, message: str) -> InputError:
    remedy = 'a value with a delimiter, quote or newline stands in "quotes", and every quote is closed'
    if found := re.search(r"Row #(\d+): (.*)", message):  # the parser counts the header as row 1
        return InputError(f"{file.path} row {int(found[1]) - 1}", found[2][:200], remedy)
    return InputError(file.path, message[:200], remedy)


def _read_parquet(file: InputFile) -> Iterator[Record]:
    number, where = 0, str(file.path)
    try:
        parquet = pq.ParquetFile(file.path, page_checksum_verification=True)
        groups = (parquet.metadata.row_group(index) for index in range(parquet.num_row_groups))
        _refuse_size(file, sum(group.total_byte_size for group in groups))
        for record in arrow_records(where, _weighed(file, parquet.iter_batches(batch_size=BATCH_ROWS))):
            number = record.number
            yield record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last one of a column's name
        place = f"{where} after row {number}" if number else where
        what = f"damaged parquet ({str(error).splitlines()[0]})"
        raise InputError(place, what, "download or write it again, or `dvc checkout`") from error


def _weighed(file: InputFile, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """`batches` until they are too large together: where a text is stored once, the footer counts it once."""
    size = 0
    for batch in batches:
        size += batch.nbytes
        _refuse_size(file, size)
        yield batch


def _refuse_size(file: InputFile, size: int) -> None:
    if size > MAX_PACKING_RATIO * file.num_bytes:
        what = f"unpacks from {file.num_bytes} to {size} bytes or more"
        raise InputError(file.path, what, "write it again with less repetition")


_READERS: dict[str, Callable[[InputFile], Iterator[Record]]] = {
    ".txt": _read_txt, ".csv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet,
}  # fmt: skip
