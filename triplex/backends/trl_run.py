"""A run of TRL's trainers as our callbacks see it: our reward on what TRL samples, our rows of what it logs."""

import math
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from triplex.backends.trl_checkpoints import train_from_newest
from triplex.rewards.composite import CompositeReward
from triplex.rl.advantages import zero_variance_frac
from triplex.rl.algorithm import Algorithm
from triplex.rl.callbacks import Callback
from triplex.rl.config import TrainConfig
from triplex.rl.ppo import PPOConfig
from triplex.rl.prompts import Prompts
from triplex.rl.summary import reward_summary
from triplex.runs.errors import InputError
from triplex.runs.stage import Run


class _StopError(Exception):
    """A callback has ended the run."""


class TRLRun(TrainerCallback, ExportableState):
    """What our callbacks have for a trainer, and TRL's trainers for a callback and a reward function.

    `drawn` are the numbers of the prompts of all steps, in the native path's order. `scale` is how many times larger
    than ours TRL's gradient is. Callbacks hear of the beginning, of each step's end, of checkpoints and of the end.
    """

    __name__ = "reward"

    def __init__(
        self, config: TrainConfig, algorithm: Algorithm, tokenizer: Any, reward: CompositeReward, prompts: Prompts,
        run: Run, callbacks: Sequence[Callback], scale: float,
    ) -> None:  # fmt: skip
        self.config, self.algorithm, self.run, self.scale = config, algorithm, run, scale
        self.tokenizer, self.reward, self.prompts, self.callbacks = tokenizer, reward, prompts, callbacks
        a, num = algorithm.config, config.batch_size // algorithm.group_size
        self.ppo = isinstance(a, PPOConfig)
        self.num_descents = a.num_epochs * a.num_minibatches  # a step
        self.drawn = [i for step in range(config.num_steps) for _, i in prompts.draw(run.seed, step, num)]
        self.metrics: list[dict[str, Any]] = []
        self.completions: list[dict[str, Any]] = []
        self.stopped: str | None = None
        self._logs: list[dict[str, float | None]] = []  # of the step so far
        self._norms: list[float] = []

    def train(self, trainer: Any) -> None:
        """All steps, from the newest checkpoint of this run if any; PPO, which keeps none, from the first."""
        with suppress(_StopError):
            if self.ppo:
                trainer.remove_callback(PrinterCallback)
                trainer.train()
            else:  # between two samplings, since TRL's checkpoints know nothing of its buffer
                train_from_newest(trainer, self.run.state, period=self.num_descents)
        self._tell("on_train_end")

    def stop(self, reason: str) -> None:
        """End training after this step; for callbacks."""
        self.stopped = reason

    def __call__(self, *, completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float | None]:
        """The rewards of a step's batch, in TRL's form; `row` holds the numbers of the prompts."""
        texts = self.tokenizer.batch_decode(
            completion_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        given = [self.prompts.texts[i] for i in row]
        output = self.reward.score(given, texts, completion_ids, **self.prompts.columns_of(row))
        self._batch = (row, completion_ids, texts, output)
        return [total if valid else None for total, valid in zip(output.total.tolist(), output.valid, strict=True)]

    def before_descent(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The optimiser's hook: notes the learning rate, and clips the gradient of PPO, which TRL would not."""
        self._rate = optimizer.param_groups[0]["lr"]
        if self.ppo:
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            self._norms.append(nn.utils.clip_grad_norm_(weights, self.config.max_grad_norm).item())

    def state(self) -> dict[str, Any]:
        """What TRL's checkpoint keeps of this."""
        return {"args": {}, "attributes": {"metrics": self.metrics, "completions": self.completions}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step:
            kept: Any = state.stateful_callbacks
            saved = kept[type(self).__name__]["attributes"]
            self.metrics, self.completions = saved["metrics"], saved["completions"]
        self._tell("on_train_begin", len(self.metrics))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if "train_runtime" in kwargs["logs"]:  # the summary at the end
            return
        self._logs.append(kwargs["logs"])
        if len(self._logs) == (1 if self.ppo else self.num_descents):
            step = len(self.metrics)
            self.metrics.append(self._row(step))
            self._keep_completions(step)
            self._logs, self._norms = [], []
            self._tell("on_step_end", step, self.metrics[-1])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._tell("on_checkpoint", len(self.metrics) - 1)

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *arguments)
        if self.stopped and event in ("on_train_begin", "on_step_end"):
            raise _StopError

    def _row(self, step: int) -> dict[str, Any]:
        """The step's metrics by our names. InputError for one that is no finite number."""
        _, ids, _, output = self._batch
        scored: Any = SimpleNamespace(score=output.total)
        length = fmean(len(one) for one in ids)
        found: dict[str, Any] = {"step": step, **reward_summary(scored, output), **self._losses(length)}
        for name, value in found.items():
            if not math.isfinite(value):
                remedy = "lower the learning rate, or look for what the reward pays"
                raise InputError(f"{self.run.name} step {step}", f"{name} is {value}", remedy)
        ends = [bool(one) and one[-1] == self.tokenizer.eos_token_id for one in ids]
        found |= {
            "kl_target": None, "kl_coef": self.config.kl_coef, "learning_rate": self._rate,
            "completions/mean_length": length, "completions/terminated_frac": fmean(ends),
            "completions/valid_frac": output.valid.float().mean().item(),
        }  # fmt: skip
        if (group := self.algorithm.group_size) > 1:
            found["frac_reward_zero_std"] = zero_variance_frac(output.total, output.valid, group).item()
        return found

    def _losses(self, length: float) -> dict[str, float]:
        """What TRL has logged in the step; its PPO's sums over a response as means over tokens."""

        def mean(name: str) -> float:
            there = [log[name] for log in self._logs if name in log]
            return fmean(math.nan if value is None else value for value in there)  # TRL's None was NaN

        a = self.algorithm.config
        if isinstance(a, PPOConfig):
            policy, value = mean("loss/policy_avg"), mean("loss/value_avg")
            return {
                "kl": mean("objective/kl") / length, "loss": policy + a.value_coef * value, "policy_loss": policy,
                "entropy": mean("objective/entropy") / length, "clip_ratio": mean("policy/clipfrac_avg"),
                "value_loss": value, "grad_norm": fmean(self._norms),
            }  # fmt: skip
        names = {name: name for name in ("kl", "loss", "entropy")} | {"clip_ratio": "clip_ratio/region_mean"}
        found = {ours: mean(trls) for ours, trls in names.items()}
        return found | {"grad_norm": mean("grad_norm") / self.scale}

    def _keep_completions(self, step: int) -> None:
        if step % self.config.completions_every and step + 1 < self.config.num_steps:
            return
        rows, _, texts, output = self._batch
        for i in range(0, len(rows), max(1, len(rows) // 8)):
            kept = {"step": step, "id": self.prompts.ids[rows[i]], "prompt": self.prompts.texts[rows[i]]}
            self.completions.append(kept | {"completion": texts[i], "reward": output.total[i].item()})
