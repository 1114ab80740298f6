import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import GPT2ForSequenceClassification

from triplex.rewards.preference import PreferenceConfig, PreferenceReward
from triplex.runs.errors import InputError

TEXTS = ["good tea " * (i % 40) + "bad lamp " * (i % 7) + "." for i in range(150)]


@pytest.fixture
def new_reward(tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Callable[..., PreferenceReward]:
    """`new_reward(num_labels=1, pad="<|pad|>", max_length=64)`: a random GPT-2 of 64 positions with a head."""

    def build(num_labels: int = 1, pad: str = "<|pad|>", max_length: int = 64) -> PreferenceReward:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.pad_token, tokenizer.model_max_length = pad, max_length
        config = copy.deepcopy(tiny_lm().config)
        config.num_labels, config.pad_token_id = num_labels, tokenizer.pad_token_id
        torch.manual_seed(3)
        model = GPT2ForSequenceClassification(config).eval()
        torch.nn.init.normal_(model.score.weight)
        return PreferenceReward(model, tokenizer)

    return build


def test_value_by_hand(new_reward: Callable[..., PreferenceReward], tiny_tokenizer: Any) -> None:
    reward = new_reward()
    ids = torch.tensor([tiny_tokenizer("The lamp is good.")["input_ids"]])
    with torch.no_grad():
        expected = (reward.model.score.weight[0] @ reward.model.transformer(ids).last_hidden_state[0, -1]).item()
    found = reward(["The lamp", "The"], [" is good.", " lamp is good."], [[], []])
    assert found == pytest.approx([expected] * 2, abs=1e-5)


@pytest.mark.parametrize("pad", ["<|pad|>", pytest.param("<|endoftext|>", id="bad-55-pad-is-eos")])
def test_alone_is_as_in_a_batch_of_any_order(new_reward: Callable[..., PreferenceReward], pad: str) -> None:
    """More texts than one pass takes, of very different lengths, longer than the model among them."""
    reward = new_reward(pad=pad)
    together = reward.logits(TEXTS)
    alone = [reward.logits([text])[0] for text in TEXTS]
    assert together == pytest.approx(alone, abs=1e-5)
    assert reward.logits(TEXTS[::-1]) == pytest.approx(together[::-1], abs=1e-5)
    assert len({round(value, 3) for value in alone}) > 50


@pytest.mark.parametrize("max_length", [64, pytest.param(10**30, id="a-tokenizer-without-a-limit")])
def test_long_texts_keep_their_end(new_reward: Callable[..., PreferenceReward], max_length: int) -> None:
    """The last 63 letters after the token that opens each text: the model has 64 positions."""
    reward = new_reward(max_length=max_length)
    prompt, completion = "x" * 100, "".join(chr(97 + i % 7) for i in range(40))
    whole, kept, beginning = reward.logits([prompt + completion, "x" * 23 + completion, "x" * 63])
    assert whole == pytest.approx(kept, abs=1e-5)
    assert abs(whole - beginning) > 1e-3


@pytest.mark.parametrize("num_labels", [pytest.param(2, id="bad-62-2"), pytest.param(3, id="bad-62-3")])
def test_other_than_one_label_is_refused(new_reward: Callable[..., PreferenceReward], num_labels: int) -> None:
    with pytest.raises(InputError, match=f"preference model: has {num_labels} labels\n  remedy: give one with one"):
        new_reward(num_labels=num_labels)


def test_it_is_normalised_unless_told_otherwise() -> None:
    model = {"kind": "folder", "path": "models/given", "sha256": "ab"}
    assert PreferenceConfig.model_validate({"weight": 1.0, "model": model}).normalise
    assert not PreferenceConfig.model_validate({"weight": 1.0, "model": model, "normalise": False}).normalise


@pytest.mark.parametrize("holdout_frac", [0.0, 1.0, -0.1])
def test_some_pairs_are_held_out_and_some_are_not(holdout_frac: float) -> None:
    optim = {
        "num_epochs": 1, "batch_size": 1, "learning_rate": 1e-3, "warmup_frac": 0.0, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "checkpoint_every": 1,
    }  # fmt: skip
    model = {"kind": "train", "num_pairs": 2, "max_tokens": 8, "holdout_frac": holdout_frac, "optim": optim}
    with pytest.raises(ValidationError, match="holdout_frac"):
        PreferenceConfig.model_validate({"weight": 1.0, "model": model})


def test_the_reward_needs_no_trainer_and_trl_is_imported_only_by_training() -> None:
    code = (
        "import sys, triplex.rewards.preference; assert 'transformers.trainer' not in sys.modules\n"
        "import triplex.rewards.preference_training; assert 'trl' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
