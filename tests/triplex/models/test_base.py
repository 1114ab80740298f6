from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from triplex.models.base import BaseConfig, base_model
from triplex.models.optim import OptimConfig
from triplex.models.saving import save_model
from triplex.models.scratch import ScratchConfig
from triplex.models.sources import FolderConfig
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree
from triplex.runs.stage import Run

TEXTS = [
    "The tea kettle boils fast and the handle stays cool.",
    "I like this lamp. It is bright, and it was cheap!",
] * 8  # fmt: skip
OPTIM = OptimConfig(
    num_epochs=20, batch_size=2, learning_rate=1e-2, warmup_frac=0.0, weight_decay=0.0, max_grad_norm=1.0,
    checkpoint_every=50,
)  # fmt: skip


def config(model: Any = None, *, block_size: int = 64, architecture: str = "gpt2") -> BaseConfig:
    scratch = ScratchConfig(
        kind="scratch", architecture=architecture, vocab_size=320, hidden_size=32, num_layers=1, num_heads=2,
        max_positions=64,
    )  # fmt: skip
    return BaseConfig(model=model or scratch, block_size=block_size, optim=OPTIM)


def run(state: Path) -> Run:
    torch.manual_seed(5)
    return Run("base", 5, state)


@torch.no_grad()
def mean_nats(model: Any, tokenizer: Any) -> float:
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    return float(model(ids, labels=ids).loss)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_from_scratch_learns_its_texts(tmp_path: Path, architecture: str) -> None:
    model, tokenizer = base_model(config(architecture=architecture), "float32", TEXTS, run(tmp_path))
    assert not model.training
    assert mean_nats(model, tokenizer) < 2  # an untrained one has log(300) = 5.7
    ids = tokenizer(TEXTS[0])["input_ids"]
    assert model(torch.tensor([ids])).logits[0, -1].argmax() == tokenizer.eos_token_id  # and where they end


def test_equal_runs_save_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save_model(tmp_path / name, *base_model(config(), "float32", TEXTS, run(tmp_path / f"state-{name}")))
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    assert not {"training_args.bin", "trainer_state.json"} & {path.name for path in (tmp_path / "a").iterdir()}


def test_block_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"base.block_size: 128 is above base.model.max_positions = 64"):
        base_model(config(block_size=128), "float32", TEXTS, run(tmp_path))


def test_given_folder_is_taken_as_it_is(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    save_model(tmp_path / "m", tiny_lm(), tiny_tokenizer)
    given = FolderConfig(kind="folder", path=str(tmp_path / "m"), sha256=sha256_tree(tmp_path / "m"))
    model, tokenizer = base_model(config(given), "float32", [], run(tmp_path / "state"))
    ids = torch.arange(2, 12)[None]
    assert torch.equal(model(ids).logits, tiny_lm()(ids).logits)
    assert len(tokenizer) == len(tiny_tokenizer)
