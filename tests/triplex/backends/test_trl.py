import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.base_trainer
from transformers import GPT2ForSequenceClassification

from triplex.backends.trl import tokenised, train_preference_model
from triplex.models.optim import OptimConfig

OPTIM = OptimConfig(
    num_epochs=2, batch_size=2, learning_rate=1e-2, warmup_frac=0.1, weight_decay=0.01, max_grad_norm=1.0,
    checkpoint_every=3,
)  # fmt: skip
#: 7 pairs, their sides of different lengths: 8 steps in two epochs, the last of each epoch a smaller batch
PAIRS = [
    {"id": str(i), "prompt": "The lamp", "chosen": " is good" + "." * i, "rejected": " broke" + " fast" * (i % 4)}
    for i in range(7)
]


class StopError(Exception):
    pass


@pytest.fixture
def new_model(tiny_lm: Callable[..., Any]) -> Callable[..., Any]:
    """`new_model(seed=0, dropout=0.0)`: a GPT-2 with a random head of one label."""

    def build(seed: int = 0, dropout: float = 0.0) -> Any:
        lm = tiny_lm(seed=seed)
        config = copy.deepcopy(lm.config)
        config.num_labels, config.resid_pdrop, config.embd_pdrop = 1, dropout, dropout
        model = GPT2ForSequenceClassification(config)
        model.transformer.load_state_dict(lm.transformer.state_dict())
        return model

    return build


@pytest.fixture
def train(tiny_tokenizer: Any) -> Callable[..., dict[str, torch.Tensor]]:
    """`train(model, state, seed=5, ...)`: the weights after training as in a new process."""

    def run(
        model: Any, state: Path, seed: int = 5, optim: OptimConfig = OPTIM, precision: str = "float32"
    ) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        tokenizer = copy.deepcopy(tiny_tokenizer)
        train_preference_model("test", model, tokenizer, PAIRS, optim, seed=seed, precision=precision, state=state)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    return run


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt(train: Callable[..., Any], model: Any, state: Path, at_step: int) -> None:
    """Train until that step has been taken, then die."""

    def die(module: torch.nn.Module, _inputs: Any) -> None:
        steps_taken.append(1)
        if len(steps_taken) > at_step:
            raise StopError

    steps_taken: list[int] = []
    hook = model.register_forward_pre_hook(die)
    with pytest.raises(StopError):
        train(model, state)
    hook.remove()


def test_loss_is_bradley_terry_by_hand(
    tmp_path: Path, new_model: Callable[..., Any], train: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    """Each text on its own, without padding: -log(1 / (1 + exp(-(chosen - rejected)))), averaged over the pairs."""
    model = new_model()
    with torch.no_grad():
        model.score.weight.normal_(generator=torch.Generator().manual_seed(1))  # so that the sides differ
    losses = []
    for pair in PAIRS:
        scores = []
        for side in ("chosen", "rejected"):
            ids = torch.tensor([tiny_tokenizer(pair["prompt"] + pair[side])["input_ids"]])
            with torch.no_grad():
                hidden = model.transformer(ids).last_hidden_state[0, -1]
            scores.append((model.score.weight @ hidden).item())
        losses.append(-torch.tensor(1 / (1 + 2.718281828459045 ** (scores[1] - scores[0]))).log().item())
    assert max(losses) - min(losses) > 0.2
    train(model, tmp_path, optim=OPTIM.model_copy(update={"num_epochs": 1, "batch_size": 7}))
    log = json.loads((tmp_path / "step-000001" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["loss"] == pytest.approx(sum(losses) / 7, abs=1e-5)


def test_equal_runs_are_bit_identical_and_another_seed_is_not(
    tmp_path: Path, new_model: Callable[..., Any], train: Callable[..., Any]
) -> None:
    one, two, other = new_model(), new_model(), new_model()
    two.load_state_dict(one.state_dict())
    other.load_state_dict(one.state_dict())
    first = train(one, tmp_path / "one")
    torch.rand(100)
    assert equal(train(two, tmp_path / "two"), first)
    assert not equal(train(other, tmp_path / "other", seed=6), first)


@pytest.mark.parametrize("at_step", [2, 3, 5, 7])
def test_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, new_model: Callable[..., Any], train: Callable[..., Any], at_step: int
) -> None:
    """Checkpoints are at steps 3 and 6 of 8; an epoch has 4 steps. Before the first one, training starts again."""
    whole, killed, resumed = new_model(), new_model(), new_model(seed=99)
    killed.load_state_dict(whole.state_dict())
    if at_step < 3:
        resumed.load_state_dict(whole.state_dict())
    uninterrupted = train(whole, tmp_path / "whole")
    interrupt(train, killed, tmp_path / "state", at_step)
    assert equal(train(resumed, tmp_path / "state"), uninterrupted)


def test_the_state_holds_two_checkpoints_and_nothing_else(
    tmp_path: Path, new_model: Callable[..., Any], train: Callable[..., Any]
) -> None:
    train(new_model(), tmp_path / "state", optim=OPTIM.model_copy(update={"checkpoint_every": 1}))
    assert {path.name for path in tmp_path.rglob("*") if path.parent in (tmp_path, tmp_path / "state")} == {
        "state", "digests.jsonl", "step-000007", "step-000008",
    }  # fmt: skip


def test_no_telemetry_is_sent(
    tmp_path: Path, new_model: Callable[..., Any], train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.delenv("CI", raising=False)  # where TRL keeps silent by itself
    monkeypatch.setattr(trl.trainer.base_trainer, "send_telemetry", lambda **what: sent.append(what))
    train(new_model(), tmp_path)
    assert sent == []


def test_dropout_is_off(tmp_path: Path, new_model: Callable[..., Any], train: Callable[..., Any]) -> None:
    plain, dropping = new_model(), new_model(dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    assert equal(train(plain, tmp_path / "plain"), train(dropping, tmp_path / "dropping"))


def test_precision_is_as_asked_and_weights_stay_float32(
    tmp_path: Path, new_model: Callable[..., Any], train: Callable[..., Any]
) -> None:
    fine, coarse = new_model(), new_model()
    coarse.load_state_dict(fine.state_dict())
    fine_weights = train(fine, tmp_path / "fine")
    coarse_weights = train(coarse, tmp_path / "coarse", precision="bfloat16")
    assert not equal(fine_weights, coarse_weights)
    assert {tensor.dtype for tensor in coarse_weights.values()} == {torch.float32}


def test_pairs_are_encoded_as_the_reward_reads_them(tiny_tokenizer: Any) -> None:
    """Nothing is appended; what is too long is cut where the tokenizer cuts."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_max_length, tokenizer.truncation_side = 5, "left"
    rows = tokenised(tokenizer, [{"prompt": "qx", "chosen": "z", "rejected": "zqxqz"}])
    ids = [tokenizer.convert_ids_to_tokens(rows[0][name]) for name in ("chosen_ids", "rejected_ids")]
    assert rows.column_names == ["chosen_ids", "rejected_ids"]
    assert ["".join(tokens) for tokens in ids] == ["<|endoftext|>qxz", "<|endoftext|>qxqz"]


def test_no_pair_is_dropped_for_its_length(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    """TRL drops what is above 1,024 tokens unless told not to; this would leave nothing to train on."""
    tokenizer, config = copy.deepcopy(tiny_tokenizer), copy.deepcopy(tiny_lm().config)
    tokenizer.model_max_length, config.n_positions, config.num_labels = 1100, 1100, 1
    model = GPT2ForSequenceClassification(config)
    before = model.score.weight.clone()
    pair = {"prompt": "q" * 2000, "chosen": "x", "rejected": "z"}
    train_preference_model("test", model, tokenizer, [pair], OPTIM, seed=5, precision="float32", state=tmp_path)
    assert not torch.equal(model.score.weight, before)


def test_progress_is_told(
    tmp_path: Path, new_model: Callable[..., Any], train: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    train(new_model(), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("test 8/8  0 s left  loss ")
