"""A run that is killed or asked to end at any place, started again, ends with the bytes of one that was not."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.triplex.rl.even_tokens import BOTH, PROPORTIONAL, Make, assert_same_bits
from triplex.rl.algorithms import ALGORITHMS
from triplex.rl.callbacks import Callback
from triplex.rl.checkpoint import OPTIMIZER, POLICY, SAMPLED, STATE
from triplex.rl.digests import Digests
from triplex.rl.records import MetricFiles
from triplex.rl.trainer import Trainer
from triplex.runs import interrupt
from triplex.runs.checkpoint import MANIFEST, newest, write_checkpoint
from triplex.runs.digests import LIVE
from triplex.runs.errors import InputError

NUM_STEPS, NUM_DESCENTS = 12, 8
#: two epochs of four mini-batches, a KL coefficient that moves, an entropy bonus
SETTINGS: dict[str, Any] = {
    "num_steps": NUM_STEPS, "kl_control": PROPORTIONAL, "checkpoint_every": 3, "max_new_tokens": 6,
    "completions_every": 2, "algorithm": {"num_epochs": 2, "num_minibatches": 4, "entropy_coef": 0.01},
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.fixture
def run(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """`run(name, state, at)`: train on, and be asked to end before the descent `at` (of the run's) if there is one."""
    monkeypatch.chdir(tmp_path)

    def build(name: str, state: str, at: int | None = None, signal_: int = signal.SIGTERM, **more: Any) -> Trainer:
        callbacks = [MetricFiles(tmp_path / "metrics" / state, name), Digests(f"{name}-{state}")]
        trainer = make(name, state=state, callbacks=callbacks, **SETTINGS | more)
        seen = 0
        descend = trainer._optimizer_step

        def count(step: int, *arguments: Any) -> dict[str, float]:
            nonlocal seen
            found = descend(step, *arguments)
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal_)
            return found

        monkeypatch.setattr(trainer, "_optimizer_step", count)
        interrupt.install()
        if at is None:
            trainer.train()
        else:
            with pytest.raises((interrupt.Interrupted, Killed)):
                trainer.train()
        return trainer

    return build


class Killed(BaseException):
    """Nothing is saved on the way out, as with SIGKILL."""


def written(tmp_path: Path, name: str, state: str) -> tuple[bytes, ...]:
    """What the run leaves in files."""
    paths = [tmp_path / "metrics" / state / f"{name}.jsonl", tmp_path / "metrics" / state / f"{name}.tsv"]
    return tuple(path.read_bytes() for path in (*paths, tmp_path / state / LIVE))


def descents_in(state: Path) -> int:
    """How many descents the newest checkpoint has behind it."""
    found = newest(state)
    assert found is not None
    _, step, *within = found.name.split("-")
    return int(step) * NUM_DESCENTS + int(*within or "0")


@pytest.mark.parametrize("name", BOTH)
def test_asked_to_end_in_any_step_it_goes_on_from_there(run: Callable[..., Trainer], tmp_path: Path, name: str) -> None:
    """In each of steps 1 to 11, after 1 to 8 of its descents by turns, each time in the run that was resumed before."""
    whole = run(name, "whole")
    at = [step * NUM_DESCENTS + (3 * step) % NUM_DESCENTS + 1 for step in range(1, NUM_STEPS)]
    assert {one % NUM_DESCENTS for one in at} == set(range(NUM_DESCENTS))
    behind = 0
    for one in at:
        run(name, "often", at=one - behind)
        behind = descents_in(tmp_path / "often")
        assert behind == one  # not one descent is lost
        newer = newest(tmp_path / "often")
        assert newer is not None
        assert newer.name.count("-") == (2 if one % NUM_DESCENTS else 1)  # nothing was begun after a step's end
    torch.manual_seed(99)  # no global state is needed
    resumed = run(name, "often")
    assert_same_bits(resumed, whole)
    assert written(tmp_path, name, "often") == written(tmp_path, name, "whole")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_asked_to_end_inside_a_step(run: Callable[..., Trainer], tmp_path: Path, name: str) -> None:
    whole = run(name, "whole", num_steps=3)
    run(name, "asked", at=NUM_DESCENTS + 3, signal_=signal.SIGINT, num_steps=3)
    assert newest(tmp_path / "asked") == tmp_path / "asked" / "step-000001-0003"
    assert not (tmp_path / "metrics" / "asked" / f"{name}.tsv").exists()
    assert_same_bits(run(name, "asked", num_steps=3), whole)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("lora", [{"rank": 0, "alpha": 16}, {"rank": 2, "alpha": 4}])
def test_asked_to_end_while_sampling_it_keeps_what_was_sampled(
    run: Callable[..., Trainer], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lora: Any
) -> None:
    torch.manual_seed(0)  # of the adapters
    whole = run(name, "whole", num_steps=2, lora=lora)
    torch.manual_seed(0)
    asked = make(name, state="asked", **SETTINGS | {"num_steps": 2, "lora": lora})
    score = asked.score

    def asking(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return score(*arguments)

    monkeypatch.setattr(asked, "score", asking)
    with pytest.raises(interrupt.Interrupted):
        asked.train()
    assert newest(tmp_path / "asked") == tmp_path / "asked" / "step-000000-0000"
    interrupt.install()
    torch.manual_seed(0)
    resumed = make(name, state="asked", **SETTINGS | {"num_steps": 2, "lora": lora})
    sample = resumed.rollout
    steps: list[int] = []

    def counted(step: int) -> Any:
        steps.append(step)
        return sample(step)

    monkeypatch.setattr(resumed, "rollout", counted)
    resumed.train()
    assert steps == [1]
    assert_same_bits(resumed, whole)


@pytest.mark.parametrize("name", BOTH)
def test_killed_anywhere_it_repeats_at_most_the_steps_since_the_last_checkpoint(
    run: Callable[..., Trainer], make: Make, tmp_path: Path, name: str
) -> None:
    whole = run(name, "whole", num_steps=4, checkpoint_every=2)
    for at in range(1, 4 * NUM_DESCENTS, 5):
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        child = os.fork()
        if child == 0:
            run(name, "killed", at=at, signal_=signal.SIGKILL, num_steps=4, checkpoint_every=2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        saved = newest(tmp_path / "killed")
        steps_done = (at - 1) // NUM_DESCENTS // 2 * 2
        assert saved == (tmp_path / "killed" / f"step-{steps_done:06d}" if steps_done else None)
        assert_same_bits(run(name, "killed", num_steps=4, checkpoint_every=2), whole)
        assert written(tmp_path, name, "killed") == written(tmp_path, name, "whole")


class StopsAt(Callback):
    """Ends the run after that step, once: a resumed run has another, which knows nothing of it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        if step == self.step:
            trainer.stop("enough")
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_was_stopped_stays_so(make: Make) -> None:
    with pytest.raises(interrupt.Interrupted):
        make("grpo", callbacks=[StopsAt(1)]).train()
    interrupt.install()
    resumed = make("grpo")
    resumed.train()
    assert (resumed.stopped, len(resumed.metrics)) == ("enough", 2)


def altered(state: Path, change: Callable[[Path], None]) -> None:
    """The newest checkpoint with `change` done to its files, as if it had been written so."""
    path = newest(state)
    assert path is not None
    identity = json.loads((path / MANIFEST).read_text())["identity"]
    step, *within = map(int, path.name.split("-")[1:])
    with write_checkpoint(state, step, *within, identity=identity) as folder:
        for file in path.iterdir():
            if file.name != MANIFEST:
                shutil.copyfile(file, folder / file.name)
        change(folder)


def set_in_state(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = json.loads((folder / STATE).read_text())
        (folder / STATE).write_text(json.dumps(state | values))

    return change


def without_sample(folder: Path) -> None:
    (folder / SAMPLED).unlink()
    state = json.loads((folder / STATE).read_text())
    del state["sampled"]
    (folder / STATE).write_text(json.dumps(state))


def without_moments(folder: Path) -> None:
    save_file({}, folder / OPTIMIZER)


def with_one_bit_of_a_weight_changed(folder: Path) -> None:
    policy = load_file(folder / POLICY)
    next(iter(policy.values())).view(torch.int32).view(-1)[0] ^= 1
    save_file(policy, folder / POLICY)


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        (set_in_state(), False),
        (set_in_state(descents=0), True),
        (set_in_state(descents=4), True),
        (set_in_state(sums={}), True),
        (set_in_state(kl={"coef": 0.02}), True),
        (without_sample, True),
        (without_moments, True),
        (with_one_bit_of_a_weight_changed, True),
    ],
)
@pytest.mark.parametrize("name", BOTH)
def test_each_part_of_the_state_is_needed(
    run: Callable[..., Trainer], tmp_path: Path, name: str, change: Callable[[Path], None], is_seen: bool
) -> None:
    whole = run(name, "whole", num_steps=3)
    run(name, "asked", at=2 * NUM_DESCENTS + 3, num_steps=3)
    altered(tmp_path / "asked", change)
    resumed = run(name, "asked", num_steps=3)
    same = resumed.metrics == whole.metrics and all(
        torch.equal(one, other)
        for one, other in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True)
    )
    assert same != is_seen


@pytest.mark.parametrize("file", [POLICY, OPTIMIZER, SAMPLED, STATE, MANIFEST])
def test_a_damaged_checkpoint_is_skipped_for_the_older(
    run: Callable[..., Trainer], tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    whole = run("grpo", "whole", num_steps=3, checkpoint_every=1)
    run("grpo", "asked", at=2 * NUM_DESCENTS + 3, num_steps=3, checkpoint_every=1)
    path = tmp_path / "asked" / "step-000002-0003" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert_same_bits(run("grpo", "asked", num_steps=3, checkpoint_every=1), whole)
    assert f"step-000002-0003 skipped: {file} has other bytes" in capsys.readouterr().err


def test_a_moved_reference_is_an_error(make: Make, tmp_path: Path) -> None:
    make("grpo", num_steps=1, checkpoint_every=1).train()
    with pytest.raises(InputError, match=r"step-000001: its reference is \w+, that of this run is \w+"):
        make("grpo", num_steps=1, checkpoint_every=1, moved=1e-6).train()
    with pytest.raises(InputError, match="its seed is 1, that of this run is 2"):
        make("grpo", num_steps=1, checkpoint_every=1, seed=2).train()


def test_frozen_weights_are_the_reference_of_adapters_and_are_not_saved(make: Make, tmp_path: Path) -> None:
    lora = {"num_steps": 1, "checkpoint_every": 1, "lora": {"rank": 2, "alpha": 4}}
    make("grpo", **lora).train()
    assert all("lora_" in name for name in load_file(tmp_path / "state" / "step-000001" / POLICY))
    with pytest.raises(InputError, match="its reference is"):
        make("grpo", **lora, moved=1e-6).train()
