"""Callbacks on a trainer of a name, some rows and a `stop`; at the end, all of them on a real one."""

import os
import pty
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from triplex.models.huggingface import HuggingFaceLM
from triplex.models.policy import Policy
from triplex.rewards.composite import CompositeReward, Part
from triplex.rl.callbacks import Callback, EarlyStopOnKL, HealthChecks, Progress
from triplex.rl.config import TrainConfig
from triplex.rl.grpo import GRPO, GRPOConfig
from triplex.rl.prompts import Prompts
from triplex.rl.records import LIVE, CompletionFile, MetricFiles
from triplex.rl.tensorboard import TensorBoard
from triplex.rl.trainer import Trainer
from triplex.runs.stage import Run


@dataclass
class SmallTrainer:
    """What callbacks see of a trainer; `go` plays steps as the loop does."""

    callbacks: list[Callback]
    num_steps: int = 100
    metrics: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = SimpleNamespace(num_steps=self.num_steps, batch_size=4)
        self.run = SimpleNamespace(name="train@ppo")

    def stop(self, reason: str) -> None:
        self.reasons.append(reason)

    def go(self, *kls: float) -> int:
        """A step for each KL, until one is the last; returns the number of steps done in all."""
        first = len(self.metrics)
        for callback in self.callbacks:
            callback.on_train_begin(self, first)  # type: ignore[arg-type]
        for step, kl in enumerate(kls, first):
            if self.reasons:
                break
            self.metrics.append({"step": step, "reward": 0.5, "kl": kl, "completions/mean_length": 8.25})
            for callback in self.callbacks:
                callback.on_step_end(self, step, self.metrics[-1])  # type: ignore[arg-type]
        for callback in self.callbacks:
            callback.on_train_end(self)  # type: ignore[arg-type]
        return len(self.metrics)


def test_a_callback_that_takes_no_event_does_nothing() -> None:
    trainer: Any = SmallTrainer([Callback()])
    before = dict(vars(trainer))
    callback = Callback()
    callback.on_train_begin(trainer, 0)
    callback.on_step_begin(trainer, 0)
    callback.on_rollout(trainer, 0, None)  # type: ignore[arg-type]
    callback.on_step_end(trainer, 0, {})
    callback.on_evaluate(trainer, 0, {})
    callback.on_checkpoint(trainer, 0)
    callback.on_train_end(trainer)
    assert vars(trainer) == before


def test_training_ends_when_the_mean_of_the_last_steps_is_above() -> None:
    trainer = SmallTrainer([EarlyStopOnKL(1.0, window_size=3)])
    assert trainer.go(0.9, 0.9, 0.9, 1.0, 1.2, 1.2) == 5  # 0.9 + 1.0 + 1.2 is the first triple above 3
    (reason,) = trainer.reasons
    assert "KL 1.03 nats per token, the mean of the last 3 steps, is above 1;" in reason
    assert "train.kl_coef" in reason


def test_one_noisy_step_ends_nothing() -> None:
    trainer = SmallTrainer([EarlyStopOnKL(1.0)])
    assert trainer.go(0.1, 4.5, 0.1, 0.1, 0.1, 0.1) == 6
    assert trainer.reasons == []


def test_the_limit_itself_is_allowed() -> None:
    trainer = SmallTrainer([EarlyStopOnKL(0.5, window_size=2)])
    assert trainer.go(0.5, 0.5, 0.25, 0.75) == 4
    assert trainer.reasons == []


def test_nothing_ends_before_there_are_enough_steps() -> None:
    trainer = SmallTrainer([EarlyStopOnKL(1.0, window_size=3)])
    assert trainer.go(50.0, 50.0) == 2
    assert trainer.reasons == []


def test_a_window_of_one_ends_at_once() -> None:
    assert SmallTrainer([EarlyStopOnKL(1.0, window_size=1)]).go(0.9, 1.1, 0.9) == 2


@pytest.mark.parametrize("interrupted_after", [1, 2, 3, 4, 5])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(interrupted_after: int) -> None:
    """Also where the checkpoint is that of the step that ended the run, which is the fifth."""
    kls = (0.9, 0.9, 0.9, 1.0, 1.2, 0.1, 0.1)
    rows = [{"step": step, "reward": 0.5, "kl": kl} for step, kl in enumerate(kls[:interrupted_after])]
    resumed = SmallTrainer([EarlyStopOnKL(1.0, window_size=3)], metrics=rows)
    assert resumed.go(*kls[interrupted_after:]) == 5
    assert len(resumed.reasons) == 1


def test_progress_shows_reward_kl_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    SmallTrainer([Progress()], num_steps=2).go(0.1, 0.25)
    line = r"train@ppo 2/2  0:00:00 left  reward 0.5  kl 0.25  [\d,]+ tokens/s\n"
    assert re.fullmatch(line, capsys.readouterr().out)


def test_after_a_resume_only_own_steps_count_for_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 6.0])
    monkeypatch.setattr("triplex.runs.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    rows = [{"step": step, "reward": 0.5, "kl": 0.0} for step in range(100)]
    SmallTrainer([Progress()], num_steps=103, metrics=rows).go(0.25)
    assert re.match(r"train@ppo 101/103  0:00:12 left  reward", capsys.readouterr().out)


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
@pytest.mark.parametrize(("ends", "shown"), [("pass", "2/4"), ("raise ValueError('loss')", "2/4")])
def test_the_terminal_has_its_cursor_back_after_an_error_too(ends: str, shown: str) -> None:
    code = f"""
        from types import SimpleNamespace
        from triplex.rl.callbacks import Progress

        def train(progress):
            config = SimpleNamespace(num_steps=4, batch_size=4)
            trainer = SimpleNamespace(run=SimpleNamespace(name="train@ppo"), config=config)
            progress.on_train_begin(trainer, 0)
            for step in range(2):
                metrics = {{"reward": 0.5, "kl": 0.25, "completions/mean_length": 8.25}}
                progress.on_step_end(trainer, step, metrics)
            {ends}
            progress.on_train_end(trainer)

        progress = Progress()
        train(progress)
        print("saved")
    """
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    status = subprocess.run(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment, timeout=60).returncode
    os.close(theirs)
    text = _all_of(ours)
    assert status == (1 if "raise" in ends else 0)
    assert shown in text
    assert "reward 0.5" in text
    assert text.rfind("\x1b[?25l") < text.rfind("\x1b[?25h")  # hidden while the bar moves, shown at the end
    assert "raise" in ends or text.rfind("\x1b[?25h") < text.rfind("saved")  # which is that of training


def _all_of(terminal: int) -> str:
    found = b""
    try:
        while part := os.read(terminal, 65536):
            found += part
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.close(terminal)
    return found.decode()


TRAIN: dict[str, Any] = {
    "backend": "native", "num_steps": 8, "batch_size": 8, "max_tokens_per_pass": 512, "max_new_tokens": 6,
    "temperature": 1.0, "lr_schedule": "linear", "max_grad_norm": 1.0, "kl_coef": 0.02, "kl_control": {"kind": "fixed"},
    "lora": {"rank": 0, "alpha": 16}, "eval_every": 4, "num_eval_prompts": 2, "checkpoint_every": 3,
    "completions_every": 4,
}  # fmt: skip
ALGORITHM: dict[str, Any] = {
    "learning_rate": 1e-2, "num_epochs": 1, "num_minibatches": 1, "clip_range": 0.2, "entropy_coef": 0.0,
    "aggregation": "token", "kl": {"place": "loss", "estimator": "k3"}, "group_size": 4, "advantage_eps": 1e-4,
}  # fmt: skip


def even_tokens(
    prompts: Any, completions: Any, completion_ids: Sequence[Sequence[int]], **_: Any
) -> list[float | None]:
    return [float(sum(token % 2 == 0 for token in one)) for one in completion_ids]


class EndsAtFive(Callback):
    """As when the process dies in step 5, three steps of work after the checkpoint."""

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        if step == 5:
            raise KeyboardInterrupt


Train = Callable[..., tuple[Trainer, HealthChecks]]


@pytest.fixture
def train(tiny_lm: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path) -> Train:
    """`train(name, *more)`: a real run with all callbacks and more, that writes to and resumes from folders of NAME."""

    def build(name: str, *more: Callback) -> tuple[Trainer, HealthChecks]:
        pytest.importorskip("tensorboard")
        health, folder = HealthChecks(), tmp_path / name
        (folder / "state").mkdir(parents=True, exist_ok=True)
        files = [MetricFiles(folder, "grpo"), CompletionFile(folder, "grpo"), TensorBoard(folder / "events")]
        policy = Policy(HuggingFaceLM(tiny_lm(0), tiny_tokenizer), None)
        prompts = Prompts(["p0", "p1", "p2"], ["The tea", "A good book", "lamp"])
        trainer = Trainer(
            TrainConfig(**TRAIN), GRPO(GRPOConfig(**ALGORITHM)), policy, HuggingFaceLM(tiny_lm(0), tiny_tokenizer),
            tiny_tokenizer, CompositeReward({"even": Part(even_tokens)}), prompts, prompts,
            Run("train@grpo", 1, folder / "state"), callbacks=[*files, health, Progress(), *more],
        )  # fmt: skip
        trainer.train()
        return trainer, health

    return build


def test_a_real_run_that_died_leaves_what_an_unbroken_one_leaves(train: Train, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("broken", EndsAtFive())
    assert not (tmp_path / "broken" / "grpo.tsv").exists()
    _, resumed = train("broken")
    for name in ("grpo.tsv", "grpo.jsonl", "grpo.parquet", f"state/{LIVE}"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert resumed.health.warnings == whole.health.warnings
    events = EventAccumulator(str(tmp_path / "broken" / "events"), size_guidance={"scalars": 0})
    events.Reload()
    for name in ("reward", "eval/reward"):
        logged = {row["step"]: row[name] for row in trainer.metrics if name in row}
        assert [e.step for e in events.Scalars(name)] == list(logged)
        assert [e.value for e in events.Scalars(name)] == pytest.approx(list(logged.values()))
    assert [e.step for e in events.Scalars("eval/reward")] == [3, 7]


def test_a_real_run_ends_on_kl_and_writes_its_files(train: Train, tmp_path: Path) -> None:
    trainer, _ = train("stopped", EarlyStopOnKL(-1.0, window_size=2))  # below what k3 can be
    assert trainer.stopped is not None
    assert trainer.stopped.startswith("KL ")
    assert len((tmp_path / "stopped" / "grpo.jsonl").read_text(encoding="utf-8").splitlines()) == 2
