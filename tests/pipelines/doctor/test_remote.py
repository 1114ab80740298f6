import socket
import time
from pathlib import Path

import pytest

from pipelines.doctor import remote
from pipelines.doctor.remote import remotes, unreachable_remotes
from tests.pipelines.doctor.conftest import changed, dvc, repro


def test_no_remote_is_no_finding(finished: Path) -> None:
    assert remotes() == {}
    assert list(unreachable_remotes()) == []


def test_bad_83_a_default_remote_that_is_not_defined_is_a_warning(finished: Path) -> None:
    dvc("config", "core.remote", "nowhere")
    (finding,) = unreachable_remotes()
    assert finding.what == "missing remote"
    assert finding.warning


def test_bad_83_work_goes_on_without_the_remote(finished: Path) -> None:
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        dvc("remote", "add", "--default", "store", "s3://bucket/path")
        dvc("remote", "modify", "store", "endpointurl", f"http://127.0.0.1:{free.getsockname()[1]}")
        start = time.monotonic()
        (finding,) = unreachable_remotes()
        assert time.monotonic() - start < remote.CONNECT_SECONDS + 2
        assert finding.warning
        assert "127.0.0.1" in finding.meaning
        assert "all else works" in finding.meaning
        Path("params.yaml").write_text("seed: 2\n")
        repro()
        assert changed() == {}


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_is_a_remote(finished: Path, tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "store").mkdir()
    dvc("remote", "add", "--default", "store", str(tmp_path / "store"))
    found = list(unreachable_remotes())
    assert [finding.meaning.partition(";")[0] for finding in found] == ([] if there else ["no such folder"])
