"""Memory that `python -m pipelines plan` expects against what trainings take: `python -m benchmarks.planned_memory`.

Each configuration trains two steps in processes of its own, one thread each. Measured is what is alive in a process at
its peak, before anything is saved, less what it held when torch, transformers and the rest were imported and a tiny
training had run. Prints Markdown.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.pipeline import environment
from pipelines.sizing import Job, Shape, memory


class Case(NamedTuple):
    """A GPT-2 and how it is trained."""

    layers: int
    width: int
    vocab: int
    job: Job


_TIGHT = Job(num_sequences=32, tokens_per_pass=1024)
CASES = [
    Case(4, 256, 8000, Job(num_sequences=128)),
    Case(6, 512, 2048, Job(num_sequences=64, prompt_tokens=16, new_tokens=112, tokens_per_pass=8192)),
    Case(6, 768, 50257, _TIGHT),
    Case(6, 768, 50257, replace(_TIGHT, has_value_network=True, num_descents=4, num_epochs=4)),
    Case(12, 768, 8000, Job(num_sequences=16)),
    Case(12, 768, 8000, Job(num_sequences=16, num_devices=2)),
    Case(12, 768, 8000, Job(num_sequences=16, num_devices=2, zero_stage=1)),
    Case(12, 768, 8000, Job(num_sequences=16, num_devices=2, zero_stage=2)),
    Case(12, 768, 8000, Job(num_sequences=16, num_devices=2, zero_stage=3)),
]  # fmt: skip


def shape(case: Case) -> Shape:
    """As `sizing` has it."""
    heads, positions = case.width // 64, case.job.prompt_tokens + case.job.new_tokens
    return Shape(case.layers, case.width, heads, heads, 4 * case.width, case.vocab, False, True, positions)


def measured(case: Case) -> float:
    """Bytes; of several workers the first one's."""
    with tempfile.TemporaryDirectory() as folder:
        task: dict[str, Any] = {"case": [*case[:3], asdict(case.job)], "folder": folder}
        command = [sys.executable, "-m", "benchmarks.planned_memory_work", json.dumps(task)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((Path(folder) / "worker-0.json").read_text())["bytes"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(environment())
    print("| layers x width, vocabulary | sequences x tokens | job | measured, MB | expected, MB | ratio |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        j, there, expected = case.job, measured(case), memory(shape(case), case.job).peak
        how = f"PPO, value network, {j.num_descents} mini-batches" if j.has_value_network else "GRPO"
        how += f", 2 workers, ZeRO {j.zero_stage}" if j.num_devices > 1 else ""
        cells = [
            f"{case.layers} x {case.width}, {case.vocab:,}", f"{j.num_sequences} x {j.prompt_tokens + j.new_tokens}",
            how, f"{there / 1e6:,.0f}", f"{expected / 1e6:,.0f}", f"{expected / there:.2f}",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
