"""A DVC remote in S3, on loopback: what was pushed comes back byte for byte after cache and workspace are lost."""

import shutil
from pathlib import Path

import boto3
import pytest
from dvc.repo import Repo

from pipelines.doctor.lock_file import broken_lock
from pipelines.doctor.objects import corrupt_objects
from pipelines.doctor.remote import unreachable_remotes
from tests.pipelines.doctor.conftest import changed, contents, dvc, finished, finished_once, rot

__all__ = ["finished", "finished_once"]


@pytest.fixture
def store(finished: Path, s3: str) -> str:
    """The URL of an S3 server that is the default remote of the current project."""
    boto3.client("s3", endpoint_url=s3).create_bucket(Bucket="triplex")
    with Repo(".") as repo, repo.config.edit("repo") as config:
        config["core"]["remote"] = "store"
        config["remote"]["store"] = {"url": "s3://triplex/runs", "endpointurl": s3}
    return s3


def lose_everything() -> None:
    shutil.rmtree(".dvc/cache")
    shutil.rmtree("models")


def test_what_was_pushed_comes_back_after_cache_and_workspace_are_lost(store: str) -> None:
    models, lock = contents("models"), Path("dvc.lock").read_bytes()
    assert list(unreachable_remotes()) == []
    Repo(".").push(run_cache=True)
    lose_everything()
    assert changed() != {}
    Repo(".").pull(run_cache=True)
    assert contents("models") == models
    assert Path("dvc.lock").read_bytes() == lock
    assert changed() == {}
    assert list(unreachable_remotes()) == []


def test_a_lock_that_is_lost_with_the_cache_comes_back_without_a_stage_running(store: str) -> None:
    models, lock = contents("models"), Path("dvc.lock").read_bytes()
    Repo(".").push(run_cache=True)
    lose_everything()
    Path("dvc.lock").write_bytes(b"")
    (finding,) = broken_lock()
    assert finding.repair
    assert finding.repair().startswith("written anew, 0 stages from the run cache and 0 from the last commit")
    Repo(".").fetch(run_cache=True)
    told = dvc("repro", "--pull")
    assert told.count("is cached - skipping run") == 2
    assert "Running stage" not in told
    assert Path("dvc.lock").read_bytes() == lock
    assert contents("models") == models


def test_a_corrupt_object_is_fetched_again(store: str) -> None:
    models = contents("models")
    Repo(".").push()
    damaged = next(path for path in sorted(Path(".dvc/cache/files/md5").rglob("*")) if path.is_file())
    rot(damaged)
    shutil.rmtree("models")
    (finding,) = corrupt_objects()
    assert finding.repair
    finding.repair()
    Repo(".").pull()
    assert contents("models") == models
