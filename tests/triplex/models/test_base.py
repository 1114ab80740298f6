from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from triplex.models.base import BaseConfig, FolderConfig, HubConfig, base_model
from triplex.models.saving import save_model
from triplex.models.scratch import ScratchConfig
from triplex.models.training import OptimConfig
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


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"bad-45-{name}") for name in ("a b", "модель", "~/m", "x/../m")]
)
def test_folder_of_any_name_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm: Callable[..., Any], tiny_tokenizer: Any, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    save_model(tmp_path / name.replace("~/", "").replace("x/../", ""), tiny_lm(), tiny_tokenizer)
    model, tokenizer = base_model(config(FolderConfig(kind="folder", path=name)), "float32", [], run(tmp_path))
    ids = torch.arange(2, 12)[None]
    assert torch.equal(model(ids).logits, tiny_lm()(ids).logits)
    assert len(tokenizer) == len(tiny_tokenizer)


@pytest.mark.parametrize("name", ["no such name", "a/b/c", "-"])
def test_hub_name_that_cannot_be_is_refused_without_network(tmp_path: Path, name: str) -> None:
    hub = HubConfig(kind="hub", name=name, revision="main")
    with pytest.raises(InputError, match=r"base.model.name = .* not to be had from the hub .*\n.*check name, revision"):
        base_model(config(hub), "float32", [], run(tmp_path))
