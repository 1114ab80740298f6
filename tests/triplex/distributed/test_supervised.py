"""Supervised training in one process and in several: real torchrun, real DeepSpeed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triplex.runs.errors import InputError

Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def train(share: Train) -> Train:
    """`train(2, 3, kill_at=3)`: what each of two workers at ZeRO's stage 3 has seen; 0: one process."""

    def start(num_workers: int, zero_stage: int = 0, **given: Any) -> list[dict[str, Any]]:
        how = ("deepspeed", num_workers, zero_stage) if num_workers else ("local", 1, 0)
        return share("blocks_work", how, **given)

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
