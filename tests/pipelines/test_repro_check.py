"""Two clones in different surroundings: a sound stage gives equal bytes, one that looks around itself is found out."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.repro_check import SIDES, first_difference, main, run_side
from tests.pipelines.conftest import environment, make_repository

#: what a stage may look at by mistake, and must then be found out
LEAKS = {
    "of_folder": "import os; print(os.getcwd())",
    "of_hash": "print(hash('triplex'))",
    "of_home": "from pathlib import Path; print(Path.home())",
    "of_locale": "import locale; print(locale.setlocale(locale.LC_ALL, ''))",
    "of_temporary": "import tempfile; print(tempfile.gettempdir())",
    "of_terminal": "import shutil; print(shutil.get_terminal_size().columns)",
    "of_umask": "import os; print(os.umask(0))",
    "of_zone": "import time; print(time.strftime('%H:%M', time.localtime(0)))",
}


def repository(folder: Path, scripts: dict[str, str]) -> Path:
    """A repository with a stage a script; the stage `s` writes what `s` prints into `s.txt`."""
    files = {f"{name}.py": f"{script}\n" for name, script in scripts.items()}
    stages = [f"  {name}:\n    cmd: python {name}.py > {name}.txt\n    deps: [{name}.py]\n    outs: [{name}.txt]\n"
              for name in scripts]  # fmt: skip
    return make_repository(folder, {**files, "dvc.yaml": "stages:\n" + "".join(stages), "params.yaml": "seed: 7\n"})


def test_every_leak_of_the_surroundings_shows(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", LEAKS)
    one, other = (run_side(source, tmp_path, side, preset="") for side in SIDES)
    same = {name for name in LEAKS if (one / f"{name}.txt").read_bytes() == (other / f"{name}.txt").read_bytes()}
    assert same == set()
    told = first_difference(one, other)
    assert told is not None
    assert told.startswith("of_folder.txt: ")


def test_sound_stages_match_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    source = repository(tmp_path / "source", {"sound": "print('the same')"})
    command = [sys.executable, "-m", "pipelines.repro_check", "--preset", ""]
    done = subprocess.run(command, cwd=source, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(": MATCH")
    assert list((tmp_path / "temporary").glob("triplex-repro-*")) == []


def test_a_difference_is_exit_code_1_and_both_clones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = repository(tmp_path / "source", {"of_zone": "print('first line')\n" + LEAKS["of_zone"]})
    monkeypatch.chdir(source)
    monkeypatch.setattr(sys, "argv", ["repro_check", "--preset", "", "--keep", str(tmp_path / "kept")])
    assert main() == 1
    told = capsys.readouterr().out
    assert 'of_zone.txt: line 2: "00:00" | "05:45"' in told
    assert told.splitlines()[-1] == f"repro-check: both clones stay in {tmp_path / 'kept'}"
    assert [(tmp_path / "kept" / side.folder / "triplex/dvc.lock").is_file() for side in SIDES] == [True, True]


def test_what_is_not_committed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = repository(tmp_path / "source", {"sound": "print('the same')"})
    (source / "sound.py").write_text("print('changed')\n")
    monkeypatch.chdir(source)
    monkeypatch.setattr(sys, "argv", ["repro_check"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "differs from its last commit: sound.py\n  remedy: `git add sound.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda clone: None, None),
        (lambda clone: (clone / "out/b").write_bytes(b"one\ntwo\nthrxe\n"), "out/b: byte 11: 0x65 | 0x78"),
        (lambda clone: (clone / "out/b").write_bytes(b"one\ntwo\n"), "out/b: bytes: 14 | 8"),
        (lambda clone: (clone / "out/b").unlink(), "out/b: not in {other}/out/b"),
        (lambda clone: (clone / "out/c").write_bytes(b""), "out/c: not in {one}/out/c"),
        (lambda clone: (clone / "out/a").write_bytes(b"\x00\xff"), "out/a: bytes: 0 | 2"),
        (lambda clone: (clone / "dvc.lock").write_text((clone / "dvc.lock").read_text() + "\n"), "dvc.lock: "),
        (lambda clone: (clone / "not-an-out").write_text("x"), None),
    ],
)  # fmt: skip
def test_the_first_difference_is_told(tmp_path: Path, change, told: str | None) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for clone in (one, other):
        (clone / "out").mkdir(parents=True)
        (clone / "out/a").write_bytes(b"")
        (clone / "out/b").write_bytes(b"one\ntwo\nthree\n")
        (clone / "dvc.lock").write_text("stages: {s: {cmd: x, outs: [{path: out, md5: x}]}}\n")
    change(other)
    found = first_difference(one, other)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(told.format(one=one, other=other))
