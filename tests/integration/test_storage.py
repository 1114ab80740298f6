"""Checkpoints in S3, on loopback: a machine that has nothing goes on where another was."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
import torch

from triplex.models.optim import OptimConfig
from triplex.models.packing import Example, collate, next_token_loss, pack
from triplex.models.training import SupervisedTrainer
from triplex.runs.checkpoint import newest
from triplex.runs.errors import InputError
from triplex.runs.storage import STORAGE, check_storage, remove

OPTIM = OptimConfig(
    num_epochs=2, batch_size=2, learning_rate=1e-2, warmup_frac=0.1, weight_decay=0.01, max_grad_norm=1.0,
    checkpoint_every=2,
)  # fmt: skip
BLOCKS = pack([Example([(7 * i + j) % 90 + 2 for j in range(10 + i % 5)], 2) for i in range(13)], 24)


class StopError(Exception):
    pass


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the server whose bucket is the storage."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv(STORAGE, "s3://machines/checkpoints")
    client = boto3.client("s3")
    client.create_bucket(Bucket="machines")
    yield client
    for key in keys(client):  # servers of one process share their store
        client.delete_object(Bucket="machines", Key=f"checkpoints/{key}")
    fsspec.filesystem("s3").clear_instance_cache()


def train(model: Any, state: Path, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    """The weights at the end; or it dies when so many steps are done."""
    trainer = SupervisedTrainer(
        "sft", model.train(), BLOCKS, partial(collate, block_size=24, pad_token_id=1), next_token_loss, OPTIM, seed=5,
        precision="float32", state=state,
    )  # fmt: skip

    def die(*_: Any) -> None:
        if len(trainer.losses) == stop_at:
            raise StopError

    state.mkdir(parents=True, exist_ok=True)
    hook = model.register_forward_pre_hook(die)
    trainer.train()
    hook.remove()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def keys(client: Any) -> set[str]:
    found = client.list_objects_v2(Bucket="machines").get("Contents", [])
    return {entry["Key"].removeprefix("checkpoints/") for entry in found}


def test_a_machine_that_has_nothing_goes_on_from_the_storage(
    bucket: Any, tmp_path: Path, tiny_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "sft-0123"
    with pytest.raises(StopError):
        train(tiny_lm(), state, stop_at=5)
    assert {key.split("/")[1] for key in keys(bucket)} == {"step-000002", "step-000004", "digests.jsonl"}
    shutil.rmtree(state)
    found = train(tiny_lm(seed=99), state)
    rows = (state / "digests.jsonl").read_bytes()
    monkeypatch.delenv(STORAGE)
    whole = train(tiny_lm(), tmp_path / "whole")
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    assert rows == (tmp_path / "whole" / "digests.jsonl").read_bytes()


def test_what_is_half_there_or_damaged_is_not_gone_on_from(
    bucket: Any, tmp_path: Path, tiny_lm: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "sft-0123"
    with pytest.raises(StopError):
        train(tiny_lm(), state, stop_at=7)
    shutil.rmtree(state)
    state.mkdir()
    bucket.delete_object(Bucket="machines", Key="checkpoints/sft-0123/step-000006/manifest.json")
    assert newest(state) == state / "step-000004"
    shutil.rmtree(state)
    state.mkdir()
    bucket.put_object(Bucket="machines", Key="checkpoints/sft-0123/step-000004/state.json", Body=b"{}")
    assert newest(state) is None
    assert "step-000004 skipped: state.json has 2 bytes" in capsys.readouterr().err


def test_when_the_run_has_ended_well_nothing_is_left_there(
    bucket: Any, tmp_path: Path, tiny_lm: Callable[..., Any]
) -> None:
    train(tiny_lm(), tmp_path / "sft-0123")
    assert keys(bucket)
    remove(tmp_path / "sft-0123")
    assert keys(bucket) == set()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://no-such-bucket/checkpoints", "cannot be written"),
        ("file:///proc/none", "cannot be written"),
        ("nowhere://x", "Protocol not known"),
    ],
)
def test_a_storage_that_cannot_be_written_is_told_before_any_work(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.setenv(STORAGE, url)
    with pytest.raises(InputError, match=rf"environment: {STORAGE} = {url}: {message}"):
        check_storage(tmp_path / "sft-0123")


def test_without_being_asked_for_nothing_is_written(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    train(tiny_lm(), tmp_path / "sft-0123")
    assert {path.name for path in tmp_path.iterdir()} == {"sft-0123"}
