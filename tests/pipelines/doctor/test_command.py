import fcntl
import json
import shutil
from pathlib import Path

from tests.pipelines.conftest import ROOT, run_pipelines
from tests.pipelines.doctor.conftest import changed, contents, git, repro, rot


def doctor(*arguments: str) -> tuple[int, str]:
    done = run_pipelines(Path.cwd(), "doctor", *arguments, COLUMNS="300")
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_doctor_finds_repairs_and_then_finds_nothing(finished: Path) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, name)
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    repro()
    git("add", "--all")
    git("commit", "--quiet", "--message", "done")
    code, told = doctor()
    assert (code, told.splitlines()[0]) == (0, "0 findings, 0 warnings, 0 repaired")
    whole, models = Path("dvc.lock").read_bytes(), contents("models")

    other = Path(".triplex/locks/reward.lock")
    other.parent.mkdir()
    with other.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, told = doctor("--repair")
    assert code == 75
    assert "something runs: stage reward" in told
    other.unlink()

    Path("dvc.lock").write_bytes(b"")
    rot(Path("models/two.txt"))
    Path(".dvc/tmp/rwlock").write_text("{")
    before = contents(".")
    code, told = doctor("--json")
    assert code == 1
    findings = json.loads(told)["findings"]
    assert [finding["what"] for finding in findings] == ["broken lock of DVC", "broken dvc.lock"]
    assert contents(".") == before  # it has only looked

    code, told = doctor("--repair", "--json")
    assert code == 0, told
    report = json.loads(told)  # DVC has not written between
    assert report["findings"] == []
    assert [finding["what"] for finding in report["repaired"]][:2] == ["broken lock of DVC", "broken dvc.lock"]
    assert Path("dvc.lock").read_bytes() == whole
    assert contents("models") == models
    assert changed() == {}
