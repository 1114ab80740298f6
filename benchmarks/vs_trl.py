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
policy. `ppo_network` gives Triplex such a network too. The model's activation is GPT-2's `gelu_new`; that Triplex
puts one kernel in the place of its eight is part of what is measured.

The last line is JSON; for the large size the same names begin with `large_`:
  grpo_ratio, ppo_ratio ...       TRL's seconds a step over Triplex's: the median over rounds
  grpo_trl_s, grpo_triplex_s ...  seconds a step: the median over steps
  grpo_memory_ratio ...           bytes of the whole process at its peak: TRL's over Triplex's
  grpo_added_ratio ...            the same of what the training adds to a process that has loaded its libraries
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
from typing import Any, NamedTuple

from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.utils import logging

from benchmarks import training
from benchmarks.memory import peak_growth, resident
from benchmarks.training import EvenTokens, Size, make_trainer, write_model
from triplex.rl.callbacks import Callback
from triplex.rl.trainer import Trainer
from triplex.runs.allocator import keep_freed_memory

SIZES = {"small": Size(4, 128, 4, 2048, 64), "large": Size(6, 768, 12, 50257, 16)}
WARM_UP = Size(1, 32, 2, 512, 16)
MEMORY_STEPS = 2  # in the second Adam has its moments from the start
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


class TriplexClock(Callback):
    """When each of Triplex's steps ended; ends the training before its last step, in which it would evaluate."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        self.ends.append(time.perf_counter())
        if step + 2 == trainer.config.num_steps:
            trainer.stop("the rest is not measured")


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
    clock: Any
    trainer: Any
    if library == "trl":
        from benchmarks.trl_training import TRLClock, trl_trainer  # here, so that Triplex's process is without TRL

        clock = TRLClock()
        trainer = trl_trainer(name, size, folder, num_steps, reward, clock)
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
        return peak_growth(lambda: train(name, library, SIZES[size_name], Path(folder), MEMORY_STEPS))


def peak_of(name: str, library: str, size_name: str) -> int:
    """Bytes of a process that trains, at its peak: the libraries, the models and what is done with them."""
    logging.set_verbosity_error()
    with TemporaryDirectory() as folder:
        write_model(SIZES[size_name], Path(folder))
        train(name, library, SIZES[size_name], Path(folder), MEMORY_STEPS)
    return resident("VmHWM")


class Memory(NamedTuple):
    """Bytes of one work, or the ratio of two: of the whole process, and of what the training adds to it."""

    peak: float
    added: float


def measure_memory(size_name: str) -> dict[tuple[str, str], Memory]:
    """Of each work, each figure in a fresh process."""
    found = {}
    for work in WORKS:
        with fresh_process(work != AS_IT_COMES) as one, fresh_process(keeps_memory=False) as other:
            peak = one.submit(peak_of, *work, size_name).result()
            found[work] = Memory(peak, other.submit(added_by, *work, size_name).result())
    return found


class Measured(NamedTuple):
    """What was measured of one size."""

    times: dict[tuple[str, str], list[list[float]]]
    memory: dict[tuple[str, str], Memory]  # empty where it was not measured

    def seconds(self, name: str, library: str) -> float:
        """A step: the median over all."""
        return statistics.median(second for each in self.times[name, library] for second in each)

    def ratio(self, name: str) -> float:
        """TRL's seconds over Triplex's: the median over rounds."""
        theirs, ours = RATIOS[name]
        rounds = zip(self.times[theirs], self.times[ours], strict=True)
        return statistics.median(statistics.median(one) / statistics.median(other) for one, other in rounds)

    def memory_ratio(self, name: str) -> Memory:
        """TRL's bytes over Triplex's."""
        theirs, ours = (self.memory[work] for work in RATIOS[name])
        return Memory(theirs.peak / ours.peak, theirs.added / ours.added)

    def names(self) -> list[str]:
        """Of the ratios whose two sides were measured."""
        return [name for name, pair in RATIOS.items() if set(pair) <= self.times.keys()]


def as_json(measured: Measured, prefix: str) -> dict[str, float]:
    """The figures by name."""
    names = measured.names()
    found = {f"{prefix}{name}_ratio": measured.ratio(name) for name in names}
    found |= {f"{prefix}{name}_{library}_s": measured.seconds(name, library) for name, library in measured.times}
    if measured.memory:
        for name in names:
            ratio = measured.memory_ratio(name)
            found |= {f"{prefix}{name}_memory_ratio": ratio.peak, f"{prefix}{name}_added_ratio": ratio.added}
    return found


def print_table(size_name: str, measured: Measured) -> None:
    """A line a work: seconds a step, samples a second, megabytes, and TRL's over ours."""
    size = SIZES[size_name]
    print(f"{size_name}: {size}")
    for name, library in measured.times:
        seconds = measured.seconds(name, library)
        line = f"  {name:12}{library:9}{seconds:8.3f} s {size.num_sequences / seconds:8.1f} samples/s"
        if measured.memory:
            memory = measured.memory[name, library]
            line += f"{memory.peak / 1e6:8.0f} MB, {memory.added / 1e6:.0f} of them added"
        print(line, flush=True)
    for name in measured.names():
        memory = ", memory {:.2f}, added {:.2f}".format(*measured.memory_ratio(name)) if measured.memory else ""
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
