"""The clock, and file systems that do not tell case apart: what has no effect on results."""

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stages import prepare
from tests.stages.test_prepare import ROWS, write_project
from triplex.runs.params import load_yaml

ROOT = Path(__file__).parents[2]
#: loaded before the C library: each look at the wall clock finds it a day earlier than the one before
BACKWARDS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
static long looks;
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (id == CLOCK_REALTIME) now->tv_sec -= 86400 * ++looks;
    return code;
}
"""
WALL_CLOCK = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.strftime", "datetime.now",
              "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now"}  # fmt: skip


def left(project: Path) -> dict[str, bytes]:
    """What the stage `prepare` has written, by path."""
    written = [path for top in ("data", "reports") for path in (project / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(project)): path.read_bytes() for path in written}


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD")
@pytest.mark.usefixtures("stages_here")
def test_bad_84_a_clock_that_runs_backwards_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backwards.c").write_text(BACKWARDS)
    library = tmp_path / "backwards.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "backwards.c", "-ldl"], check=True)
    looks = "import time; a, b = time.time(), time.time(); print(a - b)"
    shown = subprocess.run(
        [sys.executable, "-c", looks], env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True
    )
    assert float(shown.stdout) > 86000
    projects = [tmp_path / "one", tmp_path / "two"]
    for project in projects:
        project.mkdir()
        write_project(project, ROWS)
    monkeypatch.chdir(projects[0])
    prepare.main()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(library)}
    command = [sys.executable, "-m", "stages.prepare"]
    subprocess.run(command, cwd=projects[1], env=environment, check=True, capture_output=True)
    assert len(left(projects[0])) > 5
    assert left(projects[1]) == left(projects[0])


def test_bad_84_no_stage_reads_the_wall_clock() -> None:
    """Progress and time limits go by the monotonic clock, checkpoints by their step; people alone are told the time:
    since when a lock is held, when a stage ran."""
    found = [
        f"{path.relative_to(ROOT)} line {node.lineno}: {ast.unparse(node.func)}"
        for folder in ("triplex", "stages")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path not in (ROOT / "triplex/runs/lock.py", ROOT / "triplex/runs/history.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in WALL_CLOCK
    ]
    assert found == []


def test_bad_82_no_two_files_or_outs_differ_in_case_alone() -> None:
    """On a file system that does not tell case apart the one would overwrite the other."""
    skipped = {".git", ".venv", ".triplex", ".dvc", "data", "models", "reports", "__pycache__"}
    files = [
        str(path.relative_to(ROOT))
        for top in ROOT.iterdir()
        if top.name not in skipped and not top.name.endswith("_cache")
        for path in ([top, *top.rglob("*")] if top.is_dir() else [top])
    ]
    outs = [
        next(iter(entry)) if isinstance(entry, dict) else entry
        for stage in load_yaml(ROOT / "dvc.yaml")["stages"].values()
        for section in ("outs", "metrics", "plots")
        for entry in stage.get(section, [])
    ]
    assert len(files) > 200
    assert len(outs) > 20
    for names in (files, outs):
        counted = Counter(name.casefold() for name in names)
        assert [name for name, count in counted.items() if count > 1] == []
