"""SIGKILL of a worker or the driver of a training on Ray, at named places of a step: bytes, and seconds lost.

    python -m benchmarks.ray_kills

20 steps of PPO, two workers at ZeRO 2, a checkpoint every 5, each run on a cluster of its own; the fault comes in step
13. Recovery is the time from the SIGKILL to the end of that step, which is begun again from step 10. Prints Markdown;
exit code 1 where bytes differ from the undisturbed run's.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.pipeline import environment
from benchmarks.training import EvenTokens, Size, make_trainer, write_model
from triplex.distributed.launch import run_workers
from triplex.distributed.strategy import Strategy
from triplex.rl.batch import Batch
from triplex.rl.callbacks import Callback
from triplex.rl.trainer import Trainer
from triplex.runs import interrupt
from triplex.runs.checkpoint import newest
from triplex.runs.digests import digest
from triplex.runs.errors import errors_in_words
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run

SIZE, NUM_STEPS, CHECKPOINT_EVERY, FAULT_AT = Size(2, 64, 2, 512, 32), 20, 5, 13
COMPUTE = {
    "executor": "ray", "num_workers": 2, "threads": 1, "precision": "float32", "max_failures": 1,
    "deepspeed": {"zero_stage": 2, "offload": False},
}  # fmt: skip
#: what is killed, where: a rank or the driver; in the rollout, in the update; once or always
FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "rank 0, in the rollout": {"rank": 0, "where": "rollout"},
    "rank 1, in the rollout": {"rank": 1, "where": "rollout"},
    "rank 0, in the update": {"rank": 0, "where": "update"},
    "rank 1, in the update": {"rank": 1, "where": "update"},
    "the driver, in the update": {"rank": 0, "where": "update", "driver": True},
    "rank 1, each time it comes there": {"rank": 1, "where": "update", "always": True},
}


class Fault(Callback):
    """Sends the SIGKILL, and writes down how long it took to be as far again."""

    def __init__(self, given: dict[str, Any], run: Run, rank: int) -> None:
        self.given, self.rank, self.place, self.passes = given, rank, "", 0
        self.killed, self.recovered = run.state.parent / "killed", run.state.parent / "recovered"

    def on_train_begin(self, trainer: Trainer, first_step: int) -> None:
        trainer.policy.lm.model.get_input_embeddings().register_forward_pre_hook(self._pass)

    def on_step_begin(self, trainer: Trainer, step: int) -> None:
        self.place, self.passes = "rollout" if step == FAULT_AT else "", 0

    def on_rollout(self, trainer: Trainer, step: int, batch: Batch) -> None:
        self.place, self.passes = "update" if step == FAULT_AT else "", 0

    def on_step_end(self, trainer: Trainer, step: int, metrics: dict[str, Any]) -> None:
        self.place = ""
        if step == FAULT_AT and self.rank == 0 and self.killed.exists():
            self.recovered.write_text(str(time.time() - self.killed.stat().st_mtime))

    def _pass(self, *_: Any) -> None:
        """Before the third pass of the model through the place that was asked for."""
        self.passes += 1
        here = (self.rank, self.place, self.passes) == (self.given.get("rank"), self.given.get("where"), 3)
        if here and (self.given.get("always") or not self.killed.exists()):
            self.killed.touch()
            os.kill(self.given["driver"] or os.getpid(), signal.SIGKILL)


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    """What each worker does."""
    make_trainer(
        "ppo", SIZE, Path(given["model"]), NUM_STEPS, EvenTokens(), [Fault(given, run, strategy.rank)], run, strategy,
        checkpoint_every=CHECKPOINT_EVERY,
    ).train()  # fmt: skip
    weights = digest(strategy.weights().values())
    strategy.largest(0)  # all have come to the end
    (run.state.parent / f"weights-{strategy.rank}").write_text(weights)


def drive(folder: Path, fault: str) -> None:
    """The driver: a process of its own, since it may be killed."""
    interrupt.install()
    given = FAULTS[fault] | {"model": str(folder.parent / "model")}
    given["driver"] = os.getpid() if given.get("driver") else 0
    with errors_in_words():
        run_workers(
            ComputeConfig.model_validate(COMPUTE), "benchmarks.ray_kills", given, Run("kills", 7, folder / "state")
        )


def start(folder: Path, fault: str) -> tuple[int, str]:
    """Its exit code, and its error, or the end of its output where there is none in words."""
    command = [sys.executable, "-m", "benchmarks.ray_kills", "--drive", str(folder), fault]
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, " ".join(errors or ([done.stderr[-3000:]] if done.returncode > 0 else []))


def strike(folder: Path, fault: str) -> tuple[str, str, str]:
    """How the run ended, the seconds lost, and its bytes; what did not end well is started again, undisturbed."""
    (folder / "state").mkdir(parents=True)
    code, error = start(folder, fault)
    how = f"exit {code} {error}".strip()
    if code:
        how += f"; {checkpoint.name} is whole" if (checkpoint := newest(folder / "state")) else "; no checkpoint"
        again, error = start(folder, "nothing")
        how += f"; started again: exit {again} {error}".rstrip()
    # workers outlive their driver by a moment, in which they may end the step
    seconds = float((folder / "recovered").read_text()) if code >= 0 and (folder / "recovered").exists() else 0.0
    one, other = ((folder / f"weights-{rank}").read_text() for rank in range(2))
    assert one == other
    return how, f"{seconds:.1f}" if seconds else "", one


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.drive:
        drive(Path(options.drive[0]), options.drive[1])
        return
    print(environment())
    print("| SIGKILL of | end | recovery, s | whole, s | weights |\n|---|---|---|---|---|")
    digests = set()
    with TemporaryDirectory() as folder:
        write_model(SIZE, Path(folder) / "model")
        for number, fault in enumerate(FAULTS):
            begin = time.monotonic()
            how, seconds, weights = strike(Path(folder) / str(number), fault)
            print(f"| {fault} | {how} | {seconds} | {time.monotonic() - begin:.0f} | {weights} |", flush=True)
            digests.add(weights)
    sys.exit(len(digests) > 1)


if __name__ == "__main__":
    main()
