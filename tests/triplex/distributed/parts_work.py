"""What each worker of the tests of launching does: one small training after the other, since a start takes longer."""

import json
from copy import copy
from typing import Any

from tests.triplex.distributed import blocks_work, even_tokens_work
from triplex.distributed.strategy import Strategy
from triplex.runs.stage import Run


def work(given: dict[str, Any], run: Run, strategy: Strategy) -> None:
    for name, part in given["parts"].items():
        state = run.state / name
        state.mkdir(exist_ok=True)
        train = even_tokens_work.train if "algorithm" in part else blocks_work.train
        try:
            found = train(part | {"model": given["model"]}, Run(run.name, run.seed, state), copy(strategy))
        except blocks_work.LeftError:
            continue
        (run.state.parent / f"{name}-{strategy.rank}.json").write_text(json.dumps(found))
