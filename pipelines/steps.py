"""Where the digests of two trainings part: the step, and the first quantity in it."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Parting(NamedTuple):
    """The step and the quantity, as words, and the two values."""

    place: str
    one: str
    other: str

    def __str__(self) -> str:
        return f"{self.place} {self.one} | {self.other}"


def first_step(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> Parting | None:
    """The first quantity of the first row in which they differ, None where all rows are the same.

    A row has its quantities in the order in which a step computes them, so the first that differs is what caused the
    others.
    """
    for a, b in zip(one, other, strict=False):
        for key in [*a, *(key for key in b if key not in a)]:
            if a.get(key) != b.get(key):
                return Parting(f"{_place(a)}: {key}", str(a.get(key, "absent")), str(b.get(key, "absent")))
    if len(one) == len(other):
        return None
    words = ("there", "not reached") if len(one) > len(other) else ("not reached", "there")
    return Parting(_place(max(one, other, key=len)[min(len(one), len(other))]), *words)


def _place(row: dict[str, Any]) -> str:
    return f"{row['part']} step {row['step']}" if "part" in row else f"step {row['step']}"
