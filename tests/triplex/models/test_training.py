import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import get_cosine_schedule_with_warmup

from triplex.models import training
from triplex.models.lora import with_adapters
from triplex.models.optim import LoraConfig, OptimConfig
from triplex.models.packing import Example, collate, next_token_loss, pack
from triplex.models.training import MODEL, OPTIMIZER, STATE, SupervisedTrainer, make_optimizer
from triplex.runs import interrupt
from triplex.runs.checkpoint import MANIFEST, identity_of, newest, write_checkpoint
from triplex.runs.digests import LIVE
from triplex.runs.errors import InputError

OPTIM = OptimConfig(
    num_epochs=2, batch_size=2, learning_rate=1e-2, warmup_frac=0.1, weight_decay=0.01, max_grad_norm=1.0,
    checkpoint_every=3,
)  # fmt: skip
#: 7 blocks: an odd number, so that the last batch of each of two epochs of 4 steps is a smaller one
BLOCKS = pack([Example([(7 * i + j) % 90 + 2 for j in range(10 + i % 5)], 2) for i in range(13)], 24)
COLLATE = partial(collate, block_size=24, pad_token_id=1)


class StopError(Exception):
    pass


def train(model: Any, state: Path, blocks: list[Any] = BLOCKS, *, seed: int = 5, optim: OptimConfig = OPTIM) -> float:
    """Train from this seed, as in a new process."""
    torch.manual_seed(seed)
    return SupervisedTrainer(
        "test", model.train(), blocks, COLLATE, next_token_loss, optim, seed=seed, precision="float32", state=state
    ).train()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def checkpoints(state: Path) -> set[str]:
    return {path.name for path in state.iterdir()} - {LIVE}


def die_after(model: Any, state: Path, at_step: int, *, optim: OptimConfig = OPTIM) -> None:
    """Train until that step has been taken, then die."""

    def die(module: torch.nn.Module, _inputs: Any) -> None:
        if module.training:
            steps_taken.append(1)
        if len(steps_taken) > at_step:
            raise StopError

    steps_taken: list[int] = []
    hook = model.register_forward_pre_hook(die)
    with pytest.raises(StopError):
        train(model, state, optim=optim)
    hook.remove()


@pytest.fixture
def trained(tmp_path: Path, tiny_lm: Callable[..., Any]) -> dict[str, torch.Tensor]:
    """The weights after an uninterrupted run."""
    model = tiny_lm()
    train(model, tmp_path / "uninterrupted")
    return weights(model)


def test_there_are_seven_blocks() -> None:
    assert len(BLOCKS) == 7


def test_training_learns(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    model = tiny_lm()
    batch = COLLATE(BLOCKS)
    with torch.no_grad():
        before = model(**batch, use_cache=False).loss.item()
    last = train(model, tmp_path)
    with torch.no_grad():
        after = model.eval()(**batch, use_cache=False).loss.item()
    assert after < before - 0.5
    assert last < before


def test_equal_runs_are_bit_identical(
    tmp_path: Path, tiny_lm: Callable[..., Any], trained: dict[str, torch.Tensor]
) -> None:
    model = tiny_lm()
    torch.rand(100)  # what ran before does not matter
    train(model, tmp_path / "again")
    assert equal(weights(model), trained)


def test_another_seed_is_another_order(
    tmp_path: Path, tiny_lm: Callable[..., Any], trained: dict[str, torch.Tensor]
) -> None:
    model = tiny_lm()
    train(model, tmp_path / "other", seed=6)
    assert not equal(weights(model), trained)


@pytest.mark.parametrize("at_step", [3, 5, 6, 7])
def test_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, tiny_lm: Callable[..., Any], trained: dict[str, torch.Tensor], at_step: int
) -> None:
    """Checkpoints are at steps 3 and 6 of 8; an epoch has 4 steps."""
    state = tmp_path / "state"
    die_after(tiny_lm(), state, at_step)
    assert checkpoints(state) == {"step-000003", "step-000006"} - ({"step-000006"} if at_step < 6 else set())
    model = tiny_lm(seed=99)  # its weights come from the checkpoint
    train(model, state)
    assert equal(weights(model), trained)


def test_resumed_with_dropout_is_uninterrupted(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    """Which places fall out is a function of the step."""
    whole, resumed, plain = dropping(tiny_lm, 0.1), dropping(tiny_lm, 0.1), tiny_lm()
    train(whole, tmp_path / "whole")
    train(plain, tmp_path / "plain")
    assert not equal(weights(whole), weights(plain))
    die_after(dropping(tiny_lm, 0.1), tmp_path / "state", at_step=4)
    torch.rand(10)
    train(resumed, tmp_path / "state")
    assert equal(weights(whole), weights(resumed))


#: 12 steps, three epochs of which each ends in a smaller batch
EVERY_STEP = OPTIM.model_copy(update={"checkpoint_every": 1, "num_epochs": 3})


def dropping(tiny_lm: Callable[..., Any], rate: float) -> Any:
    model = tiny_lm()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
    return model


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_killed_after_any_step_again_and_again_it_is_uninterrupted(
    tmp_path: Path, tiny_lm: Callable[..., Any], rate: float
) -> None:
    """After each of steps 1 to 11 of 12, every start going on from the one before: weights, loss and digests."""
    whole, state = dropping(tiny_lm, rate), tmp_path / "state"
    loss = train(whole, tmp_path / "whole", optim=EVERY_STEP)
    for step in range(1, 12):
        die_after(dropping(tiny_lm, rate), state, 1, optim=EVERY_STEP)
        assert newest(state) == state / f"step-{step:06d}"
        torch.rand(step)
    last = dropping(tiny_lm, rate)
    assert train(last, state, optim=EVERY_STEP) == loss
    assert equal(weights(last), weights(whole))
    assert (state / LIVE).read_bytes() == (tmp_path / "whole" / LIVE).read_bytes()


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [1, 4, 8])
def test_asked_to_end_it_saves_after_the_step_that_it_is_in(
    tmp_path: Path, tiny_lm: Callable[..., Any], trained: dict[str, torch.Tensor], step: int, number: int, code: int
) -> None:
    model, passes = tiny_lm(), []

    def ask(module: torch.nn.Module, _inputs: Any) -> None:
        passes.append(1)
        if len(passes) == step:
            os.kill(os.getpid(), number)

    model.register_forward_pre_hook(ask)
    with pytest.raises(interrupt.Interrupted) as found:
        train(model, tmp_path)
    assert found.value.code == code
    assert len(passes) == step
    assert newest(tmp_path) == tmp_path / f"step-{step:06d}"
    interrupt.install()
    resumed = tiny_lm(seed=99)
    train(resumed, tmp_path)
    assert equal(weights(resumed), trained)


def other_moments(folder: Path) -> None:
    moments = load_file(folder / OPTIMIZER)
    save_file({name: value * (0.5 if "exp_avg" in name else 1) for name, value in moments.items()}, folder / OPTIMIZER)


def no_moments(folder: Path) -> None:
    save_file({}, folder / OPTIMIZER)


def other_weights(folder: Path) -> None:
    save_file({name: value * 1.01 for name, value in load_file(folder / MODEL).items()}, folder / MODEL)


def another_place(folder: Path) -> None:
    (folder / STATE).write_text(json.dumps({"losses": json.loads((folder / STATE).read_text())["losses"][:-1]}))


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [(lambda folder: None, False), (other_moments, True), (no_moments, True), (other_weights, True),
     (another_place, True)],
)  # fmt: skip
def test_each_part_of_the_state_is_needed(
    tmp_path: Path, tiny_lm: Callable[..., Any], change: Callable[[Path], None], is_seen: bool
) -> None:
    whole, state = dropping(tiny_lm, 0.1), tmp_path / "state"
    train(whole, tmp_path / "whole")
    die_after(dropping(tiny_lm, 0.1), state, 5)
    path = newest(state)
    assert path is not None
    with write_checkpoint(state, int(path.name[-1]), identity=identity_of(path)) as folder:  # as if written so
        shutil.copytree(path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        change(folder)
    resumed = dropping(tiny_lm, 0.1)
    train(resumed, state)
    assert equal(weights(whole), weights(resumed)) != is_seen


@pytest.mark.parametrize("what", ["dropout", "order"])
def test_without_the_randomness_of_the_step_the_run_is_another(
    tmp_path: Path, tiny_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The control of the tests above: draws that are no function of the step show in the weights."""
    whole, state = dropping(tiny_lm, 0.1), tmp_path / "state"
    train(whole, tmp_path / "whole")
    die_after(dropping(tiny_lm, 0.1), state, 5)
    real = training.derive_seed
    monkeypatch.setattr(training, "derive_seed", lambda *parts: real(*parts, "lost") if what in parts else real(*parts))
    resumed = dropping(tiny_lm, 0.1)
    train(resumed, state)
    assert not equal(weights(whole), weights(resumed))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    train(tiny_lm(), tmp_path)
    with pytest.raises(InputError, match=r"step-000006: its seed is 5, that of this run is 6\n  remedy: remove"):
        train(tiny_lm(), tmp_path, seed=6)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    model = tiny_lm()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match=r"test step 0: loss nan, gradient norm nan"):
        train(model, tmp_path)
    assert checkpoints(tmp_path) == set()


def test_the_rate_rises_and_falls(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    """Against transformers' schedule, one step on: theirs begins with a step at rate 0."""
    optim = OPTIM.model_copy(update={"num_epochs": 5, "warmup_frac": 0.25})
    trainer = SupervisedTrainer(
        "t", tiny_lm(), BLOCKS, COLLATE, next_token_loss, optim, seed=5, precision="float32", state=tmp_path
    )
    rates = [trainer._learning_rate(step) for step in range(trainer.num_steps)]
    assert trainer.num_steps == 20
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule = get_cosine_schedule_with_warmup(optimizer, 5, 20)
    theirs = []
    for _ in range(20):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx(theirs[1:6])
    assert rates[5:] == pytest.approx(theirs[5:])


def test_what_decays_are_the_matrices(tiny_lm: Callable[..., Any]) -> None:
    model = tiny_lm()
    decaying, others = make_optimizer(model, OPTIM).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith("bias") or "ln_" in names[id(p)] for p in others["params"])
    assert len(decaying["params"]) + len(others["params"]) == len(names)
    frozen = next(model.parameters()).requires_grad_(False)
    assert all(p is not frozen for group in make_optimizer(model, OPTIM).param_groups for p in group["params"])


def test_a_damaged_checkpoint_is_skipped_for_the_older(
    tmp_path: Path, tiny_lm: Callable[..., Any], trained: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    names: list[str] = []
    die_after(tiny_lm(), tmp_path / "first", 7)
    for file in sorted((tmp_path / "first" / "step-000006").iterdir()):
        names.append(file.name)
        state = tmp_path / file.name
        shutil.copytree(tmp_path / "first", state)
        os.truncate(state / "step-000006" / file.name, file.stat().st_size - 1)
        model = tiny_lm()
        train(model, state)
        assert equal(weights(model), trained)
        assert f"step-000006 skipped: {file.name} " in capsys.readouterr().err
    assert set(names) == {MODEL, OPTIMIZER, STATE, MANIFEST}


def test_interrupted_before_a_checkpoint_starts_again(
    tmp_path: Path, tiny_lm: Callable[..., Any], trained: dict[str, torch.Tensor]
) -> None:
    state = tmp_path / "state"
    die_after(tiny_lm(), state, at_step=2)
    model = tiny_lm()
    train(model, state)
    assert equal(weights(model), trained)


def test_a_finished_run_started_again_changes_nothing(
    tmp_path: Path, tiny_lm: Callable[..., Any], trained: dict[str, torch.Tensor]
) -> None:
    first, again = tiny_lm(), tiny_lm(seed=99)
    loss = train(first, tmp_path / "state")
    assert train(again, tmp_path / "state") == loss
    assert equal(weights(again), trained)


def test_two_checkpoints_are_kept_and_move_no_weight(
    tmp_path: Path, tiny_lm: Callable[..., Any], trained: dict[str, torch.Tensor]
) -> None:
    model = tiny_lm()
    train(model, tmp_path / "state", optim=OPTIM.model_copy(update={"checkpoint_every": 1}))
    assert checkpoints(tmp_path / "state") == {"step-000007", "step-000008"}
    assert equal(weights(model), trained)


def test_a_step_is_the_gradient_of_all_its_tokens(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    """One AdamW step by hand on the loss that averages over the batch's tokens, examples kept apart."""
    blocks = BLOCKS[:2]
    optim = OptimConfig(
        num_epochs=1, batch_size=2, learning_rate=1e-3, warmup_frac=0.0, weight_decay=0.0, max_grad_norm=1e9,
        checkpoint_every=100,
    )  # fmt: skip
    by_trainer, by_hand = tiny_lm(), tiny_lm()
    train(by_trainer, tmp_path, blocks, optim=optim)

    rows = [row for block in blocks for row in block]
    count = sum(len(row.ids) - row.num_prompt for row in rows)
    for row in rows:
        logits = by_hand(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, row.num_prompt - 1 : -1]
        targets = torch.tensor(row.ids[row.num_prompt :])
        (torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / count).backward()
    torch.optim.AdamW(by_hand.parameters(), lr=1e-3, weight_decay=0.0).step()
    # the first step of Adam is the gradient's sign, which rounding turns where the gradient is 0: compare the rest
    for one, other in zip(by_trainer.parameters(), by_hand.parameters(), strict=True):
        clear = other.grad.abs() > 1e-5
        torch.testing.assert_close(one[clear], other[clear], rtol=0, atol=1e-5)


def test_progress_is_told(tmp_path: Path, tiny_lm: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny_lm(), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"test 8/8  0:00:00 left  loss \d\.\d+  [\d,]+ tokens/s", lines[0])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_adapters_alone_are_trained_and_merge_into_a_plain_model(
    tmp_path: Path, tiny_lm: Callable[..., Any], architecture: str
) -> None:
    config = LoraConfig(rank=4, alpha=8)
    model = tiny_lm(architecture=architecture)
    kind, names, before = type(model), set(model.state_dict()), weights(model)
    torch.manual_seed(0)
    wrapped = with_adapters(model, config)
    trainable = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    train(wrapped.train(), tmp_path)
    frozen = {name: p for name, p in wrapped.named_parameters() if not p.requires_grad}
    for name, parameter in frozen.items():
        original = name.removeprefix("base_model.model.").replace(".base_layer", "")
        assert torch.equal(parameter, before[original]), name

    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        adapted = wrapped.eval()(ids).logits
        merged = wrapped.merge_and_unload()
        assert type(merged) is kind
        assert set(merged.state_dict()) == names
        assert not equal(weights(merged), before)
        torch.testing.assert_close(merged(ids).logits, adapted, rtol=0, atol=1e-4)


def test_resumed_adapters_are_uninterrupted_adapters(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    def adapted(seed: int) -> Any:
        torch.manual_seed(seed)
        return with_adapters(tiny_lm(), LoraConfig(rank=4, alpha=8)).train()

    whole, resumed = adapted(1), adapted(2)
    train(whole, tmp_path / "whole")
    die_after(adapted(1), tmp_path / "state", at_step=5)
    train(resumed, tmp_path / "state")
    assert equal(weights(whole), weights(resumed))


def test_rank_0_is_the_model_itself(tiny_lm: Callable[..., Any]) -> None:
    model, config = tiny_lm(), LoraConfig(rank=0, alpha=8)
    assert with_adapters(model, config) is model
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_is_reported_elsewhere(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    train(tiny_lm(), tmp_path / "state")
    assert not any(path.name == "runs" for path in tmp_path.rglob("*"))
