"""What checkpoints and digests take of a training's time: `python -m benchmarks.exactness_cost sft train@ppo`.

Runs each of these stages here, in a project in which all before it has run, with a clock around what exists for
exactness alone. The stages end with the bytes they had. Prints Markdown.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

import triplex.rl.digests
import triplex.rl.trainer
from triplex.models.training import SupervisedTrainer
from triplex.runs.interrupt import install

WHOLE, CHECKPOINTS, DIGESTS = "training", "checkpoints", "digests"
TIMED: list[tuple[str, Any, tuple[str, ...]]] = [
    (WHOLE, triplex.rl.trainer.Trainer, ("train",)),
    (WHOLE, SupervisedTrainer, ("train",)),
    (CHECKPOINTS, triplex.rl.trainer, ("save_checkpoint",)),
    (CHECKPOINTS, SupervisedTrainer, ("_save",)),
    (DIGESTS, triplex.rl.digests.Digests, ("on_rollout", "on_step_end")),
    (DIGESTS, SupervisedTrainer, ("_digest",)),
]


def main() -> None:
    """Run the stages, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", help="of dvc.yaml, those that train")
    stages = parser.parse_args().stages
    seconds: dict[str, float] = defaultdict(float)
    for kind, owner, names in TIMED:
        for name in names:
            setattr(owner, name, timed(getattr(owner, name), seconds, kind))
    print("| stage | training, s | checkpoints, s | digests, s | both, % of training |\n|---|---|---|---|---|")
    for stage in stages:
        seconds.clear()
        module, _, algorithm = stage.partition("@")
        install()
        import_module(f"stages.{module}").main(*filter(None, [algorithm]))
        share = (seconds[CHECKPOINTS] + seconds[DIGESTS]) / seconds[WHOLE]
        figures = " | ".join(f"{seconds[kind]:.2f}" for kind in (WHOLE, CHECKPOINTS, DIGESTS))
        print(f"| {stage} | {figures} | {share:.1%} |", flush=True)


def timed(function: Callable[..., Any], seconds: dict[str, float], kind: str) -> Callable[..., Any]:
    """`function`, whose time is added to seconds[kind]."""

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[kind] += time.perf_counter() - begin

    return call


if __name__ == "__main__":
    main()
