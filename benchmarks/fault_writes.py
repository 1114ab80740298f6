"""A death at every write, fsync, rename and removal of what writes results: is the old there, or the new, and whole?

    python -m benchmarks.fault_writes

Each row is one writer. A child does the write and dies before its first event, another before its second, and so on
until one comes through. Prints Markdown.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from triplex.runs.checkpoint import newest, write_checkpoint
from triplex.runs.files import atomic_folder, atomic_path

#: what changes a disk and tells the interpreter of it; a write is told by `tick`, an fsync by a patch
EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}
DIED = 9
PIECES = 4  # of a file, so that a death between two of them leaves a torn one


class Row(NamedTuple):
    """What the deaths of one writer left."""

    writer: str
    deaths: int
    old: int
    none: int
    new: int
    mixed: int
    strays: int  # after the next write


class Writer(NamedTuple):
    """How something is written, and read: `read` gives every byte of what counts as there, None for nothing."""

    name: str
    write: Callable[[Path, bytes], None]
    read: Callable[[Path], list[bytes] | None]
    num_old: int  # how often it has been written before


def deaths(prepare: Callable[[], None], operation: Callable[[], None]) -> Iterator[int]:
    """For k = 0, 1, ...: `prepare`, then a child that dies before the k-th event of `operation`; yields k.

    Ends when the child has come through alive.
    """
    k = 0
    while True:
        prepare()
        child = os.fork()
        if child == 0:
            _die_at(k, operation)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, DIED), f"the child failed with {code}"
        if code == 0:
            return
        yield k
        k += 1


def tick() -> None:
    """An event."""
    sys.audit("triplex.tick")


def _die_at(k: int, operation: Callable[[], None]) -> None:
    left = k

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in EVENTS or event == "triplex.tick" or writes:
            if left == 0:
                os._exit(DIED)
            left -= 1

    def counted_sync(fd: Any) -> None:
        tick()  # what a process has written outlives it, synced or not

    try:
        os.fsync = counted_sync
        sys.addaudithook(count)
        operation()
        os._exit(0)
    except BaseException:
        os._exit(1)


def in_pieces(path: Path, data: bytes) -> None:
    """Write `data` past Python's buffer, a tick before each piece."""
    size = -(-len(data) // PIECES)
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), size):
            tick()
            file.write(data[start : start + size])


def write_file(place: Path, data: bytes) -> None:
    """One file."""
    with atomic_path(place / "file") as path:
        in_pieces(path, data)


def read_file(place: Path) -> list[bytes] | None:
    """Its bytes."""
    return [(place / "file").read_bytes()] if (place / "file").exists() else None


def write_folder(place: Path, data: bytes) -> None:
    """A folder of two files, one of them further down."""
    with atomic_folder(place / "folder") as folder:
        _two_files(folder, data)


def read_folder(place: Path) -> list[bytes] | None:
    """The bytes of both."""
    return _files(place / "folder") if (place / "folder").exists() else None


def write_step(place: Path, data: bytes) -> None:
    """The checkpoint after the one that is there."""
    last = max((int(path.name[-6:]) for path in place.glob("step-*")), default=0)
    with write_checkpoint(place, last + 1) as folder:
        _two_files(folder, data)


def read_step(place: Path) -> list[bytes] | None:
    """The files of the checkpoint that a run would go on from."""
    path = newest(place)
    return None if path is None else _files(path)[:2]  # without the manifest


def _two_files(folder: Path, data: bytes) -> None:
    (folder / "a").mkdir()
    for name in ("a/a", "b"):
        in_pieces(folder / name, data)


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


WRITERS = (
    Writer("a file that is new", write_file, read_file, 0),
    Writer("a file over another", write_file, read_file, 1),
    Writer("a folder that is new", write_folder, read_folder, 0),
    Writer("a folder over another", write_folder, read_folder, 1),
    Writer("the first checkpoint", write_step, read_step, 0),
    Writer("the third checkpoint, and the first removed", write_step, read_step, 2),
)


def measure() -> list[Row]:
    """One row a writer."""
    with tempfile.TemporaryDirectory(prefix="triplex-writes-") as scratch:
        return [_measure(writer, Path(scratch) / str(number)) for number, writer in enumerate(WRITERS)]


def _measure(writer: Writer, place: Path) -> Row:
    old, new = b"old" * 3000, b"new" * 5000

    def prepare() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for _ in range(writer.num_old):
            writer.write(place, old)

    found, strays = [], 0
    for _ in deaths(prepare, lambda: writer.write(place, new)):
        there = writer.read(place)
        found.append(
            "none" if there is None else "old" if set(there) == {old} else "new" if set(there) == {new} else ""
        )
        writer.write(place, new)
        strays += sum(path.name.startswith(".") for path in place.iterdir())
    old_there, none_there, new_there, mixed = (found.count(kind) for kind in ("old", "none", "new", ""))
    return Row(writer.name, len(found), old_there, none_there, new_there, mixed, strays)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| written | deaths | the old is there | none is | the new is there | mixed | strays after the next |"]
    lines.append("|---|---|---|---|---|---|---|")
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])


def main() -> None:
    """Print the table; exit code 1 if anything was mixed or left."""
    rows = measure()
    print(table(rows))
    if any(row.mixed or row.strays for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
