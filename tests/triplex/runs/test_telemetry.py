"""Each library that would report to its makers sees that it must not, in whatever can be started."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from triplex.runs.telemetry import SWITCHES

ROOT = Path(__file__).parents[3]
STARTED = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("stages/*.py"), *ROOT.glob("*/__main__.py"), *ROOT.glob("triplex/*/__main__.py"))
    if path.stem != "__init__"
)
#: libraries that report nothing and import none that do
SILENT = {"numpy", "pyarrow", "pydantic", "rich", "typer"}
#: what each library itself says of whether it may report
ASKED = {
    "huggingface_hub": "from huggingface_hub import constants; off = constants.HF_HUB_DISABLE_TELEMETRY",
    "transformers": "from transformers.utils.hub import http_user_agent; off = 'telemetry/off' in http_user_agent()",
    "datasets": "from datasets import config; off = not config.HF_UPDATE_DOWNLOAD_COUNTS",
    "dvc": "import os; os.chdir('/'); from dvc.analytics import is_enabled; off = not is_enabled()",
    "iterative_telemetry":
        "from iterative_telemetry import IterativeTelemetryLogger as L; "
        "off = not L('t', '0', lambda: True).is_enabled()",
    "prefect":
        "from prefect.settings import get_current_settings; from prefect._internal.analytics.enabled import "
        "is_telemetry_enabled; s = get_current_settings(); off = not (is_telemetry_enabled() or "
        "s.server.analytics_enabled or s.cloud.enable_orchestration_telemetry)",
    "trl":  # whose trainers call huggingface_hub's function; nothing is sent here, only queued
        "from pathlib import Path; from huggingface_hub.utils import _telemetry as t; "
        "from importlib.util import find_spec; text = Path(find_spec('trl').origin).parent; "
        "text = (text / 'trainer/base_trainer.py').read_text(); "
        "assert 'from huggingface_hub.utils import send_telemetry' in text; "
        "t._start_telemetry_thread = lambda: None; t.send_telemetry('x'); off = t._TELEMETRY_QUEUE.empty()",
}  # fmt: skip


def reporting(code: str, **env: str) -> str:
    """The last line that the code prints, in a process whose environment sets none of the switches."""
    kept = {name: value for name, value in os.environ.items() if name not in {*SWITCHES, "HF_HUB_OFFLINE", "CI"}}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("library", ASKED)
def test_the_library_sees_its_reports_switched_off(library: str) -> None:
    said = {
        before: reporting(f"{before}\n{ASKED[library]}\nprint(off)") for before in ("", "import triplex.runs.telemetry")
    }
    assert said == {"": "False", "import triplex.runs.telemetry": "True"}


@pytest.mark.parametrize("name", STARTED)
def test_what_can_be_started_switches_them_off_before_it_imports_what_reads_them(name: str) -> None:
    before = []
    for node in ast.parse((ROOT / name).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import) and node.names[0].name == "triplex.runs.telemetry":
            break
        if isinstance(node, ast.Import | ast.ImportFrom):
            before += [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    else:
        pytest.fail("does not import triplex.runs.telemetry")
    others = set(before) - {"triplex.runs.starting"}  # which reads the standard library alone
    assert {str(module).partition(".")[0] for module in others} <= SILENT | sys.stdlib_module_names


def test_a_stage_that_has_been_imported_has_silenced_the_hub() -> None:
    assert reporting(f"import stages.sft\n{ASKED['huggingface_hub']}\nprint(off)") == "True"


def test_what_the_user_has_set_stays() -> None:
    code = "import os, triplex.runs.telemetry; print(os.environ['RAY_USAGE_STATS_ENABLED'])"
    assert reporting(code, RAY_USAGE_STATS_ENABLED="1") == "1"
