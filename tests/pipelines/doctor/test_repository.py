import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.doctor.repository import carriage_returns, dirty_lock, no_commits, no_git, shallow_clone
from tests.pipelines.doctor.conftest import changed, dvc, git


def all_findings() -> list[str]:
    checks = (no_git, no_commits, dirty_lock, shallow_clone, carriage_returns)
    return [finding.what for check in checks for finding in check()]


def commit() -> None:
    git("add", "--all")
    git("commit", "--quiet", "--message", "done")


def test_a_committed_project_has_no_findings(finished: Path) -> None:
    commit()
    assert all_findings() == []


def test_bad_79_a_repository_without_commits(finished: Path) -> None:
    shutil.rmtree(".git")
    git("init", "--quiet")
    (finding,) = no_commits()
    assert not finding.warning
    commit()
    assert all_findings() == []


def test_bad_80_a_lock_that_is_not_committed(finished: Path) -> None:
    (finding,) = dirty_lock()
    assert finding.warning
    assert finding.what == "dvc.lock not committed"
    commit()
    Path("dvc.lock").write_text(Path("dvc.lock").read_text() + "# changed\n")
    assert [finding.what for finding in dirty_lock()] == ["dvc.lock differs from the committed one"]


def test_bad_81_no_git(finished: Path) -> None:
    shutil.rmtree(".git")
    assert all_findings() == ["no git repository"]
    with pytest.raises(Exception, match="not a git repository"):
        changed()
    dvc("config", "core.no_scm", "true")
    assert all_findings() == []
    assert changed() == {}


def test_bad_82_a_shallow_clone(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit()
    subprocess.run(
        ["git", "clone", "--quiet", "--depth", "1", f"file://{finished}", "shallow"], cwd=tmp_path, check=True
    )
    monkeypatch.chdir(tmp_path / "shallow")
    (finding,) = shallow_clone()
    assert finding.warning
    subprocess.run(finding.remedy.split(), check=True)
    assert all_findings() == []


def test_bad_82_a_checkout_with_crlf_gets_its_bytes_back(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit()
    clone = ["git", "clone", "--quiet", "--config", "core.autocrlf=true", str(finished), "windows"]
    subprocess.run(clone, cwd=tmp_path, check=True)
    shutil.copytree(finished / ".dvc/cache", tmp_path / "windows/.dvc/cache")
    monkeypatch.chdir(tmp_path / "windows")
    assert b"\r\n" in Path("step.py").read_bytes()
    assert "one" in changed()  # DVC would run it again
    Path("params.yaml").write_bytes(b"seed: 2\r\n")  # of the user's own
    (finding,) = carriage_returns()
    assert finding.repair
    assert "of" in finding.repair()
    assert Path("step.py").read_bytes() == (finished / "step.py").read_bytes()
    assert Path("params.yaml").read_bytes() == b"seed: 2\r\n"
    Path("params.yaml").write_bytes(b"seed: 1\n")
    assert all_findings() == [], git("status") + git("diff")
    dvc("checkout", "--quiet")
    assert changed() == {}
