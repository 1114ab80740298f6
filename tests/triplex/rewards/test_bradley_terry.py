"""The loss of a preference model: by hand, and against TRL's RewardTrainer."""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import GPT2ForSequenceClassification
from trl import RewardConfig, RewardTrainer

from triplex.models.classifier import encode_texts
from triplex.models.optim import OptimConfig
from triplex.models.training import SupervisedTrainer
from triplex.rewards.preference_training import _pair_batch, bradley_terry_loss
from triplex.runs.checkpoint import newest
from triplex.runs.digests import LIVE

PAIRS = [("The lamp is good" + "." * i, "The lamp broke" + " fast" * (i % 4)) for i in range(7)]


@pytest.fixture
def model(tiny_lm: Callable[..., Any]) -> Any:
    """A GPT-2 with a random head of one label, as preference models are."""
    lm = tiny_lm()
    config = copy.deepcopy(lm.config)
    config.num_labels = 1
    found = GPT2ForSequenceClassification(config).eval()
    found.transformer.load_state_dict(lm.transformer.state_dict())
    with torch.no_grad():
        found.score.weight.normal_(generator=torch.Generator().manual_seed(1))  # so that the sides differ
    return found


def ids_of(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    chosen, rejected = (encode_texts(tokenizer, list(side)) for side in zip(*PAIRS, strict=True))
    return list(zip(chosen, rejected, strict=True))


def test_by_hand(model: Any, tiny_tokenizer: Any) -> None:
    """Each text on its own, without padding: -log(1 / (1 + exp(-(chosen - rejected)))), added up over the pairs."""
    losses = []
    for pair in PAIRS:
        scores = []
        for text in pair:
            with torch.no_grad():
                ids = torch.tensor([tiny_tokenizer(text)["input_ids"]])
                scores.append((model.score.weight @ model.transformer(ids).last_hidden_state[0, -1]).item())
        losses.append(-math.log(1 / (1 + math.exp(scores[1] - scores[0]))))
    assert max(losses) - min(losses) > 0.2
    total, count = bradley_terry_loss(model, _pair_batch(ids_of(tiny_tokenizer), tiny_tokenizer.pad_token_id))
    assert count == len(PAIRS)
    assert total.item() == pytest.approx(sum(losses), abs=1e-4)


def test_against_trl(model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """TRL's mean over the pairs, and its gradient."""
    pairs, other = ids_of(tiny_tokenizer), copy.deepcopy(model)
    rows = Dataset.from_dict({"chosen_ids": [c for c, _ in pairs], "rejected_ids": [r for _, r in pairs]})
    arguments = RewardConfig(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, max_length=None, gradient_checkpointing=False
    )
    trainer = RewardTrainer(other, arguments, train_dataset=rows, processing_class=copy.deepcopy(tiny_tokenizer))
    theirs = trainer.compute_loss(other, trainer.data_collator([rows[i] for i in range(len(rows))]))
    theirs.backward()
    total, count = bradley_terry_loss(model, _pair_batch(pairs, tiny_tokenizer.pad_token_id))
    (total / count).backward()
    assert (total / count).item() == pytest.approx(theirs.item(), abs=1e-6)
    for one, their in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, their.grad, rtol=1e-5, atol=1e-5)  # of up to 16


class StopError(Exception):
    pass


def trainer(model: Any, tokenizer: Any, state: Path) -> SupervisedTrainer:
    """Twelve steps: three epochs of 7 pairs in batches of two, the last of each smaller; a checkpoint after each."""
    optim = OptimConfig(
        num_epochs=3, batch_size=2, learning_rate=1e-2, warmup_frac=0.1, weight_decay=0.01, max_grad_norm=1.0,
        checkpoint_every=1,
    )  # fmt: skip
    collate = partial(_pair_batch, pad_id=tokenizer.pad_token_id)
    return SupervisedTrainer(
        "reward preference", model, ids_of(tokenizer), collate, bradley_terry_loss, optim, seed=5, precision="float32",
        state=state,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["eval", "train"])  # dropout off, as the stage has it, and on
def test_killed_after_each_of_its_steps_it_is_the_uninterrupted_one(
    model: Any, tiny_tokenizer: Any, tmp_path: Path, mode: str
) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    fresh = [copy.deepcopy(model).train(mode == "train") for _ in range(13)]
    whole, state = fresh.pop(), tmp_path / "state"
    loss = trainer(whole, tiny_tokenizer, tmp_path / "whole").train()
    for step in range(1, 12):
        killed = trainer(fresh.pop(), tiny_tokenizer, state)

        def die(*_: Any, killed: SupervisedTrainer = killed, step: int = step) -> None:
            if len(killed.losses) == step:
                raise StopError

        killed.model.register_forward_pre_hook(die)
        with pytest.raises(StopError):
            killed.train()
        assert newest(state) == state / f"step-{step:06d}"
    last = trainer(fresh.pop(), tiny_tokenizer, state)
    assert last.num_steps == 12
    assert last.train() == loss
    for one, other in zip(last.model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (state / LIVE).read_bytes() == (tmp_path / "whole" / LIVE).read_bytes()
