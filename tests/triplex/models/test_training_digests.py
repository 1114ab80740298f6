"""A row of digests for each step of supervised training."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from triplex.models.lora import with_adapters
from triplex.models.optim import LoraConfig, OptimConfig
from triplex.models.packing import Example, collate, next_token_loss, pack
from triplex.models.training import SupervisedTrainer
from triplex.runs.digests import LIVE, digest, read_rows

OPTIM = OptimConfig(
    num_epochs=2, batch_size=2, learning_rate=1e-2, warmup_frac=0.1, weight_decay=0.01, max_grad_norm=1.0,
    checkpoint_every=3,
)  # fmt: skip
BLOCKS = pack([Example([(7 * i + j) % 90 + 2 for j in range(10 + i % 5)], 2) for i in range(9)], 24)
KEYS = ["part", "step", "data", "loss", "gradients", "weights"]


def train(model: Any, state: Path, *, seed: int = 5) -> list[dict[str, Any]]:
    """The rows that the training leaves."""
    torch.manual_seed(seed)
    shape = partial(collate, block_size=24, pad_token_id=1)
    SupervisedTrainer(
        "sft", model, BLOCKS, shape, next_token_loss, OPTIM, seed=seed, precision="float32", state=state
    ).train()
    return read_rows(state / LIVE)


def test_a_row_has_every_quantity_of_its_step(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    model = tiny_lm()
    rows = train(model, tmp_path / "one")
    assert [row["step"] for row in rows] == list(range(2 * -(-len(BLOCKS) // 2)))
    assert all(list(row) == KEYS and row["part"] == "sft" for row in rows)
    assert rows[-1]["weights"] == digest(model.parameters())
    assert all(rows[0][key] != rows[1][key] for key in KEYS[1:])
    assert train(tiny_lm(), tmp_path / "again") == rows


def test_another_order_shows_in_the_data_another_model_in_the_loss(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    rows = train(tiny_lm(), tmp_path / "one")
    assert train(tiny_lm(), tmp_path / "order", seed=6)[0]["data"] != rows[0]["data"]
    other = train(tiny_lm(1), tmp_path / "model")[0]
    assert other["data"] == rows[0]["data"]
    assert other["loss"] != rows[0]["loss"]


def test_one_changed_weight_shows_in_that_step(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    rows = train(tiny_lm(), tmp_path / "one")
    model, steps = tiny_lm(), []

    def nudge(*_: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            weight = next(model.parameters()).data
            weight[3, 3] += 1e-3

    handle = model.register_forward_hook(nudge)
    other = train(model, tmp_path / "two")
    handle.remove()
    assert other[:2] == rows[:2]
    assert {key for key in KEYS if other[2][key] != rows[2][key]} >= {"weights"}
    assert other[2]["data"] == rows[2]["data"]
    assert other[2]["loss"] == rows[2]["loss"]


@pytest.mark.parametrize("at_step", [3, 4, 5])
def test_interrupted_and_resumed_has_the_rows_of_the_undisturbed_run(
    tmp_path: Path, tiny_lm: Callable[..., Any], at_step: int
) -> None:
    rows = train(tiny_lm(), tmp_path / "whole")
    model, steps = tiny_lm(), []

    def die(*_: Any) -> None:
        steps.append(1)
        if len(steps) > at_step:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(die)
    with pytest.raises(KeyboardInterrupt):
        train(model, tmp_path / "state")
    assert read_rows(tmp_path / "state" / LIVE) == rows[:at_step]
    assert train(tiny_lm(9), tmp_path / "state") == rows


def test_of_adapters_only_what_learns_counts(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    model = with_adapters(tiny_lm(), LoraConfig(rank=2, alpha=4))
    learning = [p for p in model.parameters() if p.requires_grad]
    assert train(model, tmp_path)[-1]["weights"] == digest(learning)
    assert len(learning) < len(list(model.parameters()))
