import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.artifacts import MAX_PICTURE_BYTES, metrics_table, report
from tests.pipelines.conftest import STEP


def test_metrics_table(tmp_path: Path) -> None:
    (tmp_path / "step.py").write_text(STEP)
    (tmp_path / "params.yaml").write_text("")
    subprocess.run([sys.executable, "step.py", "eval.json"], cwd=tmp_path, check=True)
    rows = metrics_table(json.loads((tmp_path / "eval.json").read_text()))
    assert [row["model"] for row in rows] == ["sft", "ppo"]
    assert rows[0]["reward"] == "0.5000"
    assert rows[0]["reward interval"] == "0.2500 to 0.7500"
    assert [row["reward against SFT"] for row in rows] == ["", "+0.46 (+0.39 to +0.53)"]
    assert rows[0]["perplexity word / phrase / sentence"] == "2.00 / 3.00 / 4.00"


def test_pictures_stay_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reports/plots").mkdir(parents=True)
    for name, size in (("clip", 450_000), ("compare-reward", 450_000), ("ended", 1_000), ("reward-ppo", 1_000)):
        Path(f"reports/plots/{name}.png").write_bytes(b"x" * size)
    text = report()
    assert len(text) < MAX_PICTURE_BYTES + 1_000
    assert re.findall(r"!\[(.*?)\]", text) == ["reward-ppo", "compare-reward", "ended"]
    assert "`reports/plots/clip.png`: left out here" in text
