"""A signal that comes while a stage imports its libraries."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STAGE = """\
import triplex.runs.starting
import time
print("importing", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_a_line_with_the_signals_code(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").touch()
    (tmp_path / "stages/slow.py").write_text(STAGE)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.slow"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        begin = time.monotonic()
        _, told = process.communicate(timeout=20)
    assert time.monotonic() - begin < 10
    assert process.returncode == 128 + number
    assert told == "stopped before it had begun\n"


def test_who_imports_a_stage_keeps_his_own_handlers() -> None:
    code = "import signal, triplex.runs.starting; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"
