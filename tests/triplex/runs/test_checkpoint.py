import json
import os
import random
import shutil
from pathlib import Path

import pytest

from benchmarks.fault_writes import deaths, tick
from triplex.runs.checkpoint import MANIFEST, identity_of, newest, what_is_wrong, write_checkpoint


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done a hundred times to see what a death leaves need not reach the disk each time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def save(state: Path, step: int, within: int | None = None) -> None:
    """A checkpoint of two files that tell its step."""
    with write_checkpoint(state, step, within, identity={"seed": 1}) as folder:
        (folder / "sub").mkdir()
        for name in ("a.bin", "sub/b.bin"):
            with (folder / name).open("wb", buffering=0) as file:
                for _ in range(2):
                    tick()
                    file.write(f"{step} {within} {name}".encode() * 10)


def names(state: Path) -> list[str]:
    return sorted(path.name for path in state.iterdir())


def test_two_are_kept_and_the_newest_is_taken(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is None
    assert newest(tmp_path) is None
    for step in (9, 10, 11):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-000010", "step-000011"]
    assert newest(tmp_path) == tmp_path / "step-000011"
    assert identity_of(tmp_path / "step-000011") == {"seed": 1}


def test_the_rows_beside_it_reach_the_disk_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def told_sync(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def told_replace(source: Path, target: Path) -> None:
        done.append(f"renamed {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", told_sync)
    monkeypatch.setattr(os, "replace", told_replace)
    (tmp_path / "digests.jsonl").write_text("{}\n")
    save(tmp_path, 1)
    assert done.index("digests.jsonl") < done.index("renamed step-000001")


def test_inside_a_step_lies_between_it_and_the_next(tmp_path: Path) -> None:
    save(tmp_path, 9, 12)
    save(tmp_path, 10)
    save(tmp_path, 10, 0)
    assert names(tmp_path) == ["step-000010", "step-000010-0000"]
    assert newest(tmp_path) == tmp_path / "step-000010-0000"
    save(tmp_path, 10, 3)
    save(tmp_path, 1_000_000)
    assert newest(tmp_path) == tmp_path / "step-1000000"
    assert names(tmp_path) == ["step-000010-0003", "step-1000000"]


def test_the_manifest_says_what_each_file_holds(tmp_path: Path) -> None:
    save(tmp_path, 1)
    manifest = json.loads((tmp_path / "step-000001" / MANIFEST).read_text())
    assert list(manifest["files"]) == ["a.bin", "sub/b.bin"]
    assert manifest["files"]["a.bin"]["size"] == 20 * len("1 None a.bin")
    assert manifest["format"] == 1


def test_files_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("x")
    (tmp_path / "step-x").mkdir()
    for step in range(4):
        save(tmp_path, step)
    assert names(tmp_path) == ["metrics.jsonl", "step-000002", "step-000003", "step-x"]


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("name", ["a.bin", "sub/b.bin", MANIFEST])
def test_no_flipped_bit_is_silent(tmp_path: Path, name: str) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step-000001"
    size = (path / name).stat().st_size * 8
    for bit in random.Random(7).sample(range(size), 200):
        flip(path / name, bit)
        wrong = what_is_wrong(path)
        assert wrong is not None, bit
        assert wrong.startswith(name)
        flip(path / name, bit)
        assert what_is_wrong(path) is None


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("name", ["a.bin", "sub/b.bin", MANIFEST])
@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.99])
def test_no_truncation_is_silent(tmp_path: Path, name: str, share: float) -> None:
    save(tmp_path, 1)
    path = tmp_path / "step-000001" / name
    os.truncate(path, int(path.stat().st_size * share))
    assert (what_is_wrong(tmp_path / "step-000001") or "").startswith(name)


def test_a_damaged_one_is_told_and_the_older_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (3, 6):
        save(tmp_path, step)
    flip(tmp_path / "step-000006" / "a.bin", 100)
    assert newest(tmp_path) == tmp_path / "step-000003"
    told = f"checkpoint {tmp_path}/step-000006 skipped: a.bin has other bytes than were written (SHA-256)\n"
    assert capsys.readouterr().err == told
    assert names(tmp_path) == ["step-000003"]  # so that it does not count as one of the two
    assert newest(tmp_path) == tmp_path / "step-000003"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "a.bin").unlink(), "a.bin is missing"),
        (lambda path: (path / "c.bin").write_text("x"), "c.bin was not written with it"),
        (lambda path: (path / MANIFEST).unlink(), f"no {MANIFEST}"),
        (lambda path: (path / MANIFEST).write_text("[]"), MANIFEST),
        (lambda path: (path / MANIFEST).write_text("{}\n"), MANIFEST),
        (lambda path: (path / MANIFEST).write_bytes(b"\xff"), MANIFEST),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, damage: object, reason: str) -> None:
    save(tmp_path, 1)
    damage(tmp_path / "step-000001")  # type: ignore[operator]
    assert (what_is_wrong(tmp_path / "step-000001") or "").startswith(reason)


def test_another_format_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("triplex.runs.checkpoint.FORMAT", 2)
        save(tmp_path, 1)
    assert what_is_wrong(tmp_path / "step-000001") == "format 2, this version reads 1"


@pytest.mark.usefixtures("unsynced")
def test_a_death_at_any_event_of_saving_leaves_the_last_checkpoint_or_the_new(tmp_path: Path) -> None:
    """Also at any event of removing the oldest one; the next run finds no stray, and goes on."""
    state = tmp_path / "state"

    def prepare() -> None:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        for step in (1, 2):
            save(state, step)

    found = []
    for _ in deaths(prepare, lambda: save(state, 3)):
        taken = newest(state)
        assert taken is not None
        assert (taken / "a.bin").read_bytes() == f"{int(taken.name[-1])} None a.bin".encode() * 20
        found.append(taken.name)
        assert not [name for name in names(state) if not name.startswith("step-")]
        assert what_is_wrong(state / "step-000002") is None  # until the third has been read back, and after it
        save(state, 3)
        assert names(state) == ["step-000002", "step-000003"]
    assert set(found) == {"step-000002", "step-000003"}
    assert found == sorted(found)
    assert len(found) >= 20
    assert newest(state) == state / "step-000003"


def test_the_older_goes_only_when_the_newer_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    rename = os.replace

    def damaging(old: str, new: str) -> None:
        rename(old, new)
        if str(new).endswith("step-000003"):
            flip(Path(new) / "a.bin", 3)

    monkeypatch.setattr(os, "replace", damaging)
    with pytest.raises(ValueError, match=r"step-000003: written, and reads back otherwise: a\.bin"):
        save(tmp_path, 3)
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000003"]
    assert newest(tmp_path) == tmp_path / "step-000002"
