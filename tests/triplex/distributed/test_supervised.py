"""Supervised training in one process and in several: real torchrun, real DeepSpeed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triplex.distributed.launch import run_workers
from triplex.models.saving import save_model
from triplex.runs.errors import InputError
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run

Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def train(tiny_lm: Any, tiny_tokenizer: Any, tmp_path: Path) -> Train:
    """`train(2, 3, kill_at=3)`: what each of two workers at ZeRO's stage 3 has seen, in a fresh folder; 0: locally."""
    save_model(tmp_path / "model", tiny_lm(), tiny_tokenizer)
    runs = iter(range(100))

    def start(
        num_workers: int, zero_stage: int = 0, *, folder: Path | None = None, max_failures: int = 1, **given: Any
    ) -> list[dict[str, Any]]:
        folder = folder or tmp_path / f"run-{next(runs)}"
        (folder / "state").mkdir(parents=True, exist_ok=True)
        compute = ComputeConfig.model_validate({
            "executor": "deepspeed" if num_workers else "local", "num_workers": max(1, num_workers), "threads": 1,
            "precision": "float32", "deepspeed": {"zero_stage": zero_stage, "offload": False},
            "max_failures": max_failures,
        })  # fmt: skip
        given = {"model": str(tmp_path / "model")} | given
        run_workers(compute, "tests.triplex.distributed.blocks_work", given, Run("sft", 7, folder / "state"))
        return [json.loads((folder / f"worker-{i}.json").read_text()) for i in range(max(1, num_workers))]

    return start


def test_one_worker_gives_the_bits_of_one_process(train: Train) -> None:
    assert train(1) == train(0)


@pytest.mark.parametrize(("zero_stage", "rank"), [(0, 0), (1, 4), (3, 4)])
def test_two_workers_read_the_same_and_learn_alike(train: Train, zero_stage: int, rank: int) -> None:
    (alone,) = train(0, rank=rank)
    one, other = train(2, zero_stage, rank=rank)
    assert one["data"] == alone["data"]
    assert one["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert (one["losses"], one["weights"]) == (other["losses"], other["weights"])


def test_a_worker_that_dies_changes_no_bit(train: Train) -> None:
    assert train(2, 2, kill_at=3, kill_rank=1) == train(2, 2)


def test_another_number_of_workers_goes_on_from_a_checkpoint(train: Train, tmp_path: Path) -> None:
    (alone,) = train(0)
    folder = tmp_path / "moved"
    with pytest.raises(InputError, match="died"):
        train(2, 2, folder=folder, kill_at=3, kill_rank=0, max_failures=0)
    (found,) = train(1, 1, folder=folder)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
