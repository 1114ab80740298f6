import hashlib
import json
import os
from pathlib import Path

import pytest

from triplex.runs.files import atomic_path, sha256_file, sha256_tree, write_json, write_text


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
