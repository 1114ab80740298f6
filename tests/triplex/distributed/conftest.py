"""A small model, and workers that share what a test gives them to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triplex.distributed.launch import run_workers
from triplex.models.saving import save_model
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run


@pytest.fixture
def share(tiny_lm: Any, tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """`share("blocks_work", ("deepspeed", 2, 3), ...)`: what each of two workers at ZeRO 3 has written.

    The work is a module beside this file, the folder a fresh one unless it is given, and `given` goes to the work.
    """
    save_model(tmp_path / "model", tiny_lm(), tiny_tokenizer)
    runs = iter(range(100))

    def start(
        work: str, how: tuple[str, int, int], *, folder: Path | None = None, max_failures: int = 1, **given: Any
    ) -> list[dict[str, Any]]:
        folder = folder or tmp_path / f"run-{next(runs)}"
        (folder / "state").mkdir(parents=True, exist_ok=True)
        executor, num_workers, zero_stage = how
        compute = ComputeConfig.model_validate({
            "executor": executor, "num_workers": num_workers, "threads": 1, "precision": "float32",
            "deepspeed": {"zero_stage": zero_stage, "offload": False}, "max_failures": max_failures,
        })  # fmt: skip
        given = {"model": str(tmp_path / "model")} | given
        run_workers(compute, f"tests.triplex.distributed.{work}", given, Run("train@x", 7, folder / "state"))
        return [json.loads((folder / f"worker-{i}.json").read_text()) for i in range(num_workers)]

    return start
