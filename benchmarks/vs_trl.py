"""Triplex's training steps beside TRL's, the same model, lengths and reward: `python -m benchmarks.vs_trl --json`.

One run, one machine, as many threads as OMP_NUM_THREADS says (else as there are cores). In each round both libraries
train the same random GPT-2 by GRPO and by PPO, one after the other; a step is a whole one: rollout, reward, update.
The first step of a training warms up; the others are timed from one `on_step_end` to the next. Two sizes: `small`
(4 layers, 128 wide, 64 sequences) and `large` (distilgpt2's 6 layers, 768 wide, 50,257 tokens, 16 sequences).

The work is the same and is counted: tokens generated (as the reward sees them) and optimiser steps (as torch sees
them). Prompts have 8 tokens and responses 32, all of them: the end-of-text and the pad token have ids that the
model has no logit for. Both run in float32 without dropout, logging and saving. `grpo` is TRL's GRPO with its default
micro-batches of 8 and gradient checkpointing, `grpo_tuned` with one micro-batch and without checkpointing, the fastest
found here; all but the former run in a process that keeps freed memory, as Triplex's stages do. TRL's PPO, tuned
likewise, has a value network of its own, as large as the policy and not to be switched off; Triplex's has a head on the
policy. `ppo_network` gives Triplex such a network too.

The last line is JSON; for the large size the same names begin with `large_`:
  grpo_ratio, ppo_ratio ...       TRL's seconds a step over Triplex's: the median over rounds
  grpo_trl_s, grpo_triplex_s ...  seconds a step: the median over steps
  grpo_memory_ratio ...           what training adds to a process at its peak: TRL's over Triplex's
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForSequenceClassification, PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks import training
from benchmarks.memory import peak_growth
from benchmarks.training import EvenTokens, Size, make_prompts, make_trainer, read_model, read_tokenizer, write_model
from triplex.rl.callbacks import Callback
from triplex.rl.trainer import Trainer
from triplex.runs.allocator import keep_freed_memory

SIZES = {"small": Size(4, 128, 4, 2048, 64), "large": Size(6, 768, 12, 50257, 16)}
WARM_UP = Size(1, 32, 2, 512, 16)
ROUNDS, TIMED_STEPS = {"small": 5, "large": 1}, {"small": 3, "large": 1}
WORKS = [
    ("grpo", "trl"), ("grpo_tuned", "trl"), ("grpo", "triplex"),
    ("ppo", "trl"), ("ppo", "triplex"), ("ppo_network", "triplex"),
]  # fmt: skip
AS_IT_COMES = WORKS[0]  # the one in a process that leaves the allocator alone
WORKS_OF = {"small": WORKS, "large": WORKS[:-1]}  # what ten minutes hold
RATIOS = {  # by name: TRL's work over ours
    "grpo": (WORKS[0], WORKS[2]), "grpo_tuned": (WORKS[1], WORKS[2]), "ppo": (WORKS[3], WORKS[4]),
    "ppo_network": (WORKS[3], WORKS[5]),
}  # fmt: skip
UPDATES = dict.fromkeys(("grpo", "grpo_tuned"), 1)  # a step
UPDATES |= dict.fromkeys(("ppo", "ppo_network"), training.PPO_EPOCHS * training.PPO_MINIBATCHES)


class TRLClock(TrainerCallback):
    """When each of TRL's steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


class TriplexClock(Callback):
    """When each of Triplex's steps ended; ends the training before its last step, in which it would evaluate."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        self.ends.append(time.perf_counter())
        if step + 2 == trainer.config.num_steps:
            trainer.stop("the rest is not measured")


class QuietGRPO(GRPOTrainer):
    """Sends no telemetry."""

    def _send_telemetry(self) -> None:
        pass


class QuietPPO(PPOTrainer):
    """Sends no telemetry."""

    def _send_telemetry(self) -> None:
        pass


class Ids(nn.Module):
    """A trunk in the form of TRL's reward models, whose states are the ids."""

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=[input_ids[..., None].float()])


class RewardModel(nn.Module):
    """A reward function in the form that TRL's PPO takes."""

    base_model_prefix = "trunk"

    def __init__(self, reward: EvenTokens, prompt_tokens: int) -> None:
        super().__init__()
        self.trunk, self.reward, self.prompt_tokens = Ids(), reward, prompt_tokens

    def score(self, states: Tensor) -> Tensor:
        """(B, L, 1): the response's reward, whichever place TRL looks at."""
        ids = states[:, self.prompt_tokens :, 0].long().tolist()
        scores = self.reward([""] * len(ids), [""] * len(ids), ids)
        return torch.tensor(scores)[:, None, None].expand_as(states)


def trl_trainer(name: str, size: Size, folder: Path, num_steps: int, reward: EvenTokens, clock: TRLClock) -> Any:
    """TRL's trainer of the model in `folder`, as fast as it can be made on a CPU."""
    shared: dict[str, Any] = {
        "output_dir": str(folder / "trl"), "use_cpu": True, "bf16": False,
        "report_to": "none", "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True,
        "dataloader_num_workers": 0, "seed": training.SEED, "learning_rate": training.LEARNING_RATE,
        "lr_scheduler_type": "constant", "adam_epsilon": training.ADAM_EPS, "max_grad_norm": training.MAX_GRAD_NORM,
        "temperature": 1.0,
    }  # fmt: skip
    whole: dict[str, Any] = {"per_device_train_batch_size": size.num_sequences, "gradient_checkpointing": False}
    tokenizer, model = read_tokenizer(folder), read_model(folder)
    if name != "ppo":
        micro: dict[str, Any] = {
            "gradient_accumulation_steps": size.num_sequences // GRPOConfig.per_device_train_batch_size
        }
        config = GRPOConfig(
            **shared, **(whole if name == "grpo_tuned" else micro), max_steps=num_steps,
            num_generations=training.GROUP_SIZE, max_completion_length=size.new_tokens,
            beta=training.KL_COEF, epsilon=training.CLIP_RANGE, loss_type="grpo", num_iterations=1,
        )  # fmt: skip
        texts = make_prompts(size, num_steps * size.num_sequences // training.GROUP_SIZE)
        return QuietGRPO(
            model=model, reward_funcs=reward, args=config, train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer, callbacks=[clock],
        )  # fmt: skip
    # a mini-batch is one micro-batch: with gradient_accumulation_steps above 1 TRL would step less often
    ppo_config = PPOConfig(
        **shared, **whole, total_episodes=num_steps * size.num_sequences, num_ppo_epochs=training.PPO_EPOCHS,
        num_mini_batches=training.PPO_MINIBATCHES, local_rollout_forward_batch_size=size.num_sequences,
        response_length=size.new_tokens, kl_coef=training.KL_COEF, cliprange=training.CLIP_RANGE,
        vf_coef=training.VALUE_COEF, num_sample_generations=0,
    )  # fmt: skip
    ids = tokenizer(make_prompts(size, num_steps * size.num_sequences))["input_ids"]
    reward_model: Any = RewardModel(reward, size.prompt_tokens)  # to TRL any module of that form is one
    value_model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    return QuietPPO(
        args=ppo_config, processing_class=tokenizer, model=model, ref_model=read_model(folder),
        reward_model=reward_model, value_model=value_model,
        train_dataset=Dataset.from_dict({"input_ids": ids}), callbacks=[clock],
    )  # fmt: skip


@contextlib.contextmanager
def counted_updates() -> Iterator[list[int]]:
    """A list whose length grows by one with each step of any of torch's optimisers."""
    counted: list[int] = []
    handle = register_optimizer_step_post_hook(lambda *_: counted.append(1))
    yield counted
    handle.remove()


def train(name: str, library: str, size: Size, folder: Path, num_steps: int) -> list[float]:
    """Seconds of each step but the first; what was done is checked to be all and no more."""
    reward = EvenTokens()
    clock: TRLClock | TriplexClock
    if library == "trl":
        clock = TRLClock()
        trainer = trl_trainer(name, size, folder, num_steps, reward, clock)
        trainer.remove_callback(PrinterCallback)
    else:
        clock = TriplexClock()
        trainer = make_trainer(name, size, folder, num_steps + 1, reward, [clock])
    with counted_updates() as updates, contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    done = (reward.num_tokens, len(updates), len(clock.ends))
    assert done == (num_steps * size.num_sequences * size.new_tokens, num_steps * UPDATES[name], num_steps), done
    return [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]


def measure_times(size_name: str) -> dict[tuple[str, str], list[list[float]]]:
    """Seconds of the steps of each round by work; every second round goes the other way round."""
    size = SIZES[size_name]
    found: dict[tuple[str, str], list[list[float]]] = {work: [] for work in WORKS_OF[size_name]}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        write_model(size, Path(folder))
        processes = {keeps: stack.enter_context(fresh_process(keeps)) for keeps in (False, True)}
        for i in range(ROUNDS[size_name]):
            for work in WORKS_OF[size_name][:: 1 if i % 2 == 0 else -1]:
                process = processes[work != AS_IT_COMES]
                steps = process.submit(train, *work, size, Path(folder), 1 + TIMED_STEPS[size_name])
                found[work].append(steps.result())
    return found


def fresh_process(keeps_memory: bool) -> ProcessPoolExecutor:
    """A process of its own, which keeps the memory that it has freed, as Triplex's stages do, or does not."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=spawn, initializer=keep_freed_memory if keeps_memory else None)


def added_by(name: str, library: str, size_name: str) -> int:
    """Bytes that a training, its models with it, adds at its peak, after a tiny one that loads what it needs."""
    logging.set_verbosity_error()
    with TemporaryDirectory() as tiny, TemporaryDirectory() as folder:
        write_model(WARM_UP, Path(tiny))
        train(name, library, WARM_UP, Path(tiny), 1)
        write_model(SIZES[size_name], Path(folder))
        # in the second step Adam has its moments from the start; PPO has them after its first update
        num_steps = 1 if name.startswith("ppo") else 2
        return peak_growth(lambda: train(name, library, SIZES[size_name], Path(folder), num_steps))


def measure_memory(size_name: str) -> dict[tuple[str, str], int]:
    """Bytes added by each work, each in a fresh process."""
    growth = {}
    for work in WORKS:
        with fresh_process(keeps_memory=False) as fresh:
            growth[work] = fresh.submit(added_by, *work, size_name).result()
    return growth


class Measured(NamedTuple):
    """What was measured of one size."""

    times: dict[tuple[str, str], list[list[float]]]
    memory: dict[tuple[str, str], int]  # empty where it was not measured

    def seconds(self, name: str, library: str) -> float:
        """A step: the median over all."""
        return statistics.median(second for each in self.times[name, library] for second in each)

    def ratio(self, name: str) -> float:
        """TRL's seconds over Triplex's: the median over rounds."""
        theirs, ours = RATIOS[name]
        rounds = zip(self.times[theirs], self.times[ours], strict=True)
        return statistics.median(statistics.median(one) / statistics.median(other) for one, other in rounds)

    def memory_ratio(self, name: str) -> float:
        """TRL's bytes over Triplex's."""
        theirs, ours = RATIOS[name]
        return self.memory[theirs] / self.memory[ours]

    def names(self) -> list[str]:
        """Of the ratios whose two sides were measured."""
        return [name for name, pair in RATIOS.items() if set(pair) <= self.times.keys()]


def as_json(measured: Measured, prefix: str) -> dict[str, float]:
    """The figures by name."""
    names = measured.names()
    found = {f"{prefix}{name}_ratio": measured.ratio(name) for name in names}
    found |= {f"{prefix}{name}_{library}_s": measured.seconds(name, library) for name, library in measured.times}
    return found | {
        f"{prefix}{name}_memory_ratio": measured.memory_ratio(name) for name in measured.names() if measured.memory
    }


def print_table(size_name: str, measured: Measured) -> None:
    """A line a work: seconds a step, samples a second, megabytes, and TRL's over ours."""
    size = SIZES[size_name]
    print(f"{size_name}: {size}")
    for name, library in measured.times:
        seconds = measured.seconds(name, library)
        line = f"  {name:12}{library:9}{seconds:8.3f} s {size.num_sequences / seconds:8.1f} samples/s"
        if measured.memory:
            line += f"{measured.memory[name, library] / 1e6:8.0f} MB"
        print(line, flush=True)
    for name in measured.names():
        memory = f", memory {measured.memory_ratio(name):.2f}" if measured.memory else ""
        print(f"  {name}: TRL over Triplex, time {measured.ratio(name):.2f}{memory}", flush=True)


def main() -> None:
    """Print a table of each size, and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the last line, JSON, alone")
    options = parser.parse_args()
    logging.set_verbosity_error()
    result: dict[str, float] = {}
    for size_name in SIZES:
        memory = measure_memory(size_name) if size_name == "small" else {}
        measured = Measured(measure_times(size_name), memory)
        if not options.json:
            print_table(size_name, measured)
        result |= as_json(measured, "" if size_name == "small" else f"{size_name}_")
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
