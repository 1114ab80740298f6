import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.fault_writes import deaths, tick
from triplex.runs.errors import DiskFullError
from triplex.runs.files import (
    atomic_folder,
    atomic_path,
    sha256_file,
    sha256_tree,
    strays,
    told_when_full,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_write_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "grüße\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "grüße\n".encode()
    assert names(tmp_path / "a") == ["b.txt"]


def test_write_replaces_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a much longer old text")
    write_text(file, "new")
    assert file.read_text() == "new"


def test_exception_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(TypeError), atomic_path(file) as temporary:
        temporary.write_text(b"half")  # type: ignore[arg-type]
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_exception_leaves_an_absent_file_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.with_suffix(".missing").read_text()
    assert names(tmp_path) == []


def test_old_file_stays_readable_until_the_end(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")
    with atomic_path(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_written_files_are_readable_by_all(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_json_keeps_order_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_without_nan(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": value})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "a") == sha256_tree(tmp_path / "a") == expected


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {"x/a.txt": "one", "x/b/c.txt": "two"}.items():
        write_text(tmp_path / name, text)
    return tmp_path / "x"


def test_tree_hash_by_hand(tree: Path) -> None:
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    listing = f"a.txt\0{one}\nb/c.txt\0{two}\n"
    assert sha256_tree(tree) == hashlib.sha256(listing.encode()).hexdigest()


def test_tree_hash_depends_on_bytes_and_names_alone(tree: Path) -> None:
    seen = {sha256_tree(tree)}
    os.utime(tree / "a.txt", (1, 1))
    assert sha256_tree(tree) in seen
    (tree / "a.txt").write_text("One")
    seen.add(sha256_tree(tree))
    (tree / "a.txt").rename(tree / "b.txt")
    seen.add(sha256_tree(tree))
    (tree / "b.txt").rename(tree / "b" / "b.txt")
    seen.add(sha256_tree(tree))
    (tree / "empty").write_text("")
    seen.add(sha256_tree(tree))
    assert len(seen) == 5


def test_tree_hash_does_not_depend_on_where_the_tree_is(tree: Path, tmp_path: Path) -> None:
    before = sha256_tree(tree)
    assert sha256_tree(tree.rename(tmp_path / "elsewhere")) == before


OLD, NEW = b"old" * 100, b"new" * 5000


def in_pieces(path: Path, data: bytes) -> None:
    """Unbuffered, so that a death between two pieces leaves a torn file."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), 4000):
            tick()
            file.write(data[start : start + 4000])


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done a hundred times to see what a death leaves need not reach the disk each time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("old", [None, OLD])
def test_a_death_at_any_event_leaves_the_old_file_or_the_new(tmp_path: Path, old: bytes | None) -> None:
    file = tmp_path / "a.bin"

    def prepare() -> None:
        for path in tmp_path.iterdir():
            path.unlink()
        if old is not None:
            file.write_bytes(old)

    def write() -> None:
        with atomic_path(file) as temporary:
            in_pieces(temporary, NEW)

    found = []
    for _ in deaths(prepare, write):
        found.append(file.read_bytes() if file.exists() else None)
        write_text(file, "next")
        assert names(tmp_path) == ["a.bin"]
    assert set(found) == {old, NEW}
    assert len(found) >= 8  # the temporary file, its five pieces, chmod, sync, rename, sync of the folder
    assert found == sorted(found, key=lambda content: content == NEW)
    assert file.read_bytes() == NEW


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("old", [False, True])
def test_a_death_at_any_event_leaves_no_mixed_folder(tmp_path: Path, old: bool) -> None:
    folder = tmp_path / "model"

    def write(data: bytes) -> None:
        with atomic_folder(folder) as temporary:
            (temporary / "sub").mkdir()
            for name in ("a", "sub/b"):
                in_pieces(temporary / name, data)

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if old:
            write(OLD)

    found = []
    for _ in deaths(prepare, lambda: write(NEW)):
        content = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]
        found.append(content[0] if content else None)
        assert content in ([], [OLD, OLD], [NEW, NEW])
        write(b"next")
        assert names(tmp_path) == ["model"]
    assert set(found) == {NEW, None, *([OLD] if old else [])}
    assert sha256_tree(folder) != ""
    assert [path.read_bytes() for path in (folder / "a", folder / "sub" / "b")] == [NEW, NEW]


def test_what_a_living_writer_has_begun_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with atomic_path(file) as first:
        first.write_text("first")
        assert strays(tmp_path) == []
        write_text(file, "second")
        assert first.read_text() == "first"
    assert file.read_text() == "first"


def test_strays_are_those_of_the_name_that_is_asked_for(tmp_path: Path) -> None:
    for name in (".a.txt.abcdefgh.tmp", ".b.txt.abcdefgh.tmp", ".a.txt.tmp", "a.tmp", ".x.a.txt.abcdefgh.tmp.bak"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in strays(tmp_path, "a.txt")] == [".a.txt.abcdefgh.tmp"]
    assert [path.name for path in strays(tmp_path)] == [".a.txt.abcdefgh.tmp", ".b.txt.abcdefgh.tmp"]


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic_folder(tmp_path / "x") as folder:
            (folder / name).write_text(name)
            (folder / name).chmod(0o600)
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["b"]
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "x" / "b").stat().st_mode & 0o777 == 0o644


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("a")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "x") as folder:
        raise KeyError
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["a"]


def test_everything_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace

    def told_sync(handle: int) -> None:
        calls.append(f"sync {os.readlink(f'/proc/self/fd/{handle}')}")
        sync(handle)

    def told_replace(old: str, new: str) -> None:
        calls.append(f"rename {old}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", told_sync)
    monkeypatch.setattr(os, "replace", told_replace)
    with atomic_folder(tmp_path / "x") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")
    aside = f"{folder}"
    assert sorted(calls[:3]) == [f"sync {aside}", f"sync {aside}/sub", f"sync {aside}/sub/a"]
    assert calls[3:] == [f"rename {aside}", f"sync {tmp_path}"]
    calls.clear()
    with atomic_path(tmp_path / "y") as file:
        file.write_text("y")
    assert calls == [f"sync {file}", f"rename {file}", f"sync {tmp_path}"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def by_hand(path: Path) -> None:
    path.write_bytes(b"x" * 3_000_000)


def by_torch(path: Path) -> None:
    torch.save(torch.arange(400_000), path)


def by_safetensors(path: Path) -> None:
    save_file({"a": torch.arange(400_000)}, path)


def by_parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": torch.rand(400_000, dtype=torch.float64).numpy()}), path)


@pytest.mark.parametrize("write", [by_hand, by_torch, by_safetensors, by_parquet])
def test_a_full_disk_is_told_with_need_and_free_space_and_leaves_nothing(
    disk: Path, write: Callable[[Path], None]
) -> None:
    message = r"a: no space left on the disk: 3\.20 MB needed, 2\.\d\d MB free"
    with pytest.raises(DiskFullError, match=message), atomic_path(disk / "a", 3_200_000) as file:
        write(file)
    with pytest.raises(DiskFullError, match="more than that needed"), atomic_folder(disk / "a") as folder:
        write(folder / "b")
    assert names(disk) == []


def test_a_full_disk_is_told_where_nothing_is_written_aside(disk: Path) -> None:
    with pytest.raises(DiskFullError, match=r"log: no space left on the disk: more than that needed"):
        append(disk / "log")


def append(path: Path) -> None:
    with told_when_full(path), path.open("a") as file:
        file.write("x" * 3_000_000)


def test_another_error_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), atomic_folder(tmp_path / "a") as folder:
        folder.write_text("x")
