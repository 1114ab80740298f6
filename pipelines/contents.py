"""Where two files of one kind part first: tensor and element, column and row, key, line."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open

_ABSENT = object()
_UNREADABLE = (SafetensorError, pa.ArrowException, ValueError)  # ValueError: no JSON, no UTF-8
#: rendered from numbers that are compared elsewhere; within a tolerance there is nothing to say of them
_RENDERED = (".png", ".html")


def first_difference(one: Path, other: Path, tolerance: float = 0.0) -> str | None:
    """`place: value | value` of the first difference between two files, None where their bytes are the same.

    What they hold is told by the first one's suffix.

    With a tolerance t numbers a, b count as equal where |a - b| <= t (1 + |b|), and pictures and pages, drawn from
    numbers, always.
    """
    if same_bytes(one, other) or (tolerance and one.suffix in _RENDERED):
        return None
    if (compare := _KINDS.get(one.suffix)) is not None:
        try:
            found = compare(one, other, tolerance)
        except _UNREADABLE:  # damaged, so there is nothing but its bytes
            return _first_byte(one, other)
        if found is not None or tolerance:
            return found
    return _first_byte(one, other)


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files hold the same."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while piece := a.read(1 << 20):
            if piece != b.read(1 << 20):
                return False
    return True


def differing_keys(one: Any, other: Any, tolerance: float = 0.0, place: str = "") -> Iterator[str]:
    """`key.key[0]: value | value` for every leaf in which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            inner = f"{place}.{key}" if place else str(key)
            yield from differing_keys(one.get(key, _ABSENT), other.get(key, _ABSENT), tolerance, inner)
    elif isinstance(one, list) and isinstance(other, list):
        for index, (a, b) in enumerate(zip_longest(one, other, fillvalue=_ABSENT)):
            yield from differing_keys(a, b, tolerance, f"{place}[{index}]")
    elif not _equal(one, other, tolerance):
        yield f"{place}: {_shown(one)} | {_shown(other)}"


def _equal(one: Any, other: Any, tolerance: float) -> bool:
    if tolerance and isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= tolerance * (1 + abs(other)) or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _tensors(one: Path, other: Path, tolerance: float) -> str | None:
    with safe_open(one, "pt") as a, safe_open(other, "pt") as b:
        for name in sorted({*a.keys(), *b.keys()}):
            if name not in a.keys() or name not in b.keys():  # noqa: SIM118  # no mapping
                return f"tensor {name}: {'absent' if name not in a.keys() else 'there'} | " + (  # noqa: SIM118
                    "absent" if name not in b.keys() else "there"  # noqa: SIM118
                )
            if (found := _elements(name, a.get_tensor(name), b.get_tensor(name), tolerance)) is not None:
                return found
    return None


def _elements(name: str, a: torch.Tensor, b: torch.Tensor, tolerance: float) -> str | None:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return f"tensor {name}: {a.dtype} {tuple(a.shape)} | {b.dtype} {tuple(b.shape)}"
    if tolerance:
        x, y = a.double(), b.double()
        differ = ~((x - y).abs() <= tolerance * (1 + y.abs()))
    else:  # bytes: 0.0 is not -0.0, and a NaN is itself
        width = a.element_size()
        bits = [t.contiguous().reshape(-1, 1).view(torch.uint8).reshape(-1, width) for t in (a, b)]
        differ = (bits[0] != bits[1]).any(1).reshape(a.shape)
    if not differ.any():
        return None
    place = tuple(int(i) for i in differ.nonzero()[0])
    return f"tensor {name}[{', '.join(map(str, place))}]: {a[place].item()!r} | {b[place].item()!r}"


def _tables(one: Path, other: Path, tolerance: float) -> str | None:
    a, b = pq.read_table(one), pq.read_table(other)
    if not a.schema.equals(b.schema):
        changed = [f"{x} | {y}" for x, y in zip_longest(a.schema, b.schema, fillvalue="absent") if x != y]
        return f"columns: {changed[0]}" if changed else None
    for name in a.column_names:
        if tolerance or not a[name].equals(b[name]):
            for row, (x, y) in enumerate(zip(a[name].to_pylist(), b[name].to_pylist(), strict=False)):
                if (found := next(differing_keys(x, y, tolerance, f"column {name}, row {row}"), None)) is not None:
                    return found
    return None if len(a) == len(b) else f"rows: {len(a):,} | {len(b):,}"


def _json(one: Path, other: Path, tolerance: float) -> str | None:
    return next(differing_keys(json.loads(one.read_bytes()), json.loads(other.read_bytes()), tolerance), None)


def _lines(one: Path, other: Path, tolerance: float, read: Callable[[str], Any]) -> str | None:
    texts = [path.read_text(encoding="utf-8").splitlines() for path in (one, other)]
    for number, (x, y) in enumerate(zip(*texts, strict=False), start=1):
        if x != y and (found := next(differing_keys(read(x), read(y), tolerance, f"line {number}"), None)) is not None:
            return found
    return None if len(texts[0]) == len(texts[1]) else f"lines: {len(texts[0])} | {len(texts[1])}"


def _json_lines(one: Path, other: Path, tolerance: float) -> str | None:
    return _lines(one, other, tolerance, json.loads)


def _text(one: Path, other: Path, tolerance: float) -> str | None:
    return _lines(one, other, tolerance, str)


def _tsv(one: Path, other: Path, tolerance: float) -> str | None:
    (names, *rows), (other_names, *other_rows) = _cells(one), _cells(other)
    if names != other_names:
        return next(differing_keys(names, other_names, place="header"))
    for number, (x, y) in enumerate(zip(rows, other_rows, strict=False), start=2):
        for name, here, there in zip(names, x, y, strict=True):
            if not _equal(_number(here), _number(there), tolerance):
                return f"line {number}, column {name}: {here} | {there}"
    return None if len(rows) == len(other_rows) else f"lines: {len(rows) + 1} | {len(other_rows) + 1}"


def _cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, dialect="excel-tab"))


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _first_byte(one: Path, other: Path) -> str:
    a, b = (np.fromfile(path, np.uint8) for path in (one, other))
    shared = min(len(a), len(b))
    differ = np.flatnonzero(a[:shared] != b[:shared])
    if len(differ):
        place = int(differ[0])
        return f"byte {place}: 0x{a[place]:02x} | 0x{b[place]:02x}"
    return f"bytes: {len(a):,} | {len(b):,}"


_KINDS: dict[str, Callable[[Path, Path, float], str | None]] = {
    ".safetensors": _tensors,
    ".parquet": _tables,
    ".json": _json,
    ".jsonl": _json_lines,
    ".tsv": _tsv,
    ".txt": _text,
}
