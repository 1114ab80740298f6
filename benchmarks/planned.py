"""What `python -m pipelines plan` expects against what trainings take: `python -m benchmarks.planned memory seconds`.

Each configuration trains in processes of its own, one thread each. Prints Markdown.

- memory: what is alive in the first worker at its peak, before anything is saved, less what it held when torch,
  transformers and the rest were imported and a tiny training had run
- seconds: of a step, the median of those after the first: seconds of the first worker's processor, as long as the clock
  where nothing else runs; against the device that `benchmarks.device` measures in the same run
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import device
from benchmarks.pipeline import environment
from benchmarks.training import GROUP_SIZE, PPO_EPOCHS, PPO_MINIBATCHES
from pipelines.devices import step_time
from pipelines.sizing import Job, Shape, memory


class Case(NamedTuple):
    """A GPT-2 and how it is trained."""

    layers: int
    width: int
    vocab: int
    job: Job


_GRPO = Job(num_sequences=16, group_size=GROUP_SIZE)
_PPO = Job(num_sequences=64, num_descents=PPO_MINIBATCHES, num_epochs=PPO_EPOCHS)
CASES = [
    Case(4, 256, 8000, replace(_GRPO, num_sequences=64)),
    Case(4, 256, 8000, replace(_GRPO, num_sequences=256)),
    Case(4, 256, 8000, _PPO),
    Case(4, 256, 8000, replace(_PPO, has_value_network=True)),
    Case(6, 512, 2048, replace(_GRPO, prompt_tokens=16, new_tokens=112)),
    Case(6, 512, 2048, replace(_GRPO, prompt_tokens=16, new_tokens=112, lora_rank=16)),
    Case(6, 512, 2048, replace(_GRPO, prompt_tokens=64, new_tokens=192)),
    Case(12, 768, 8000, _GRPO),
    Case(6, 768, 50257, _GRPO),
    *(Case(6, 768, 50257, replace(_GRPO, num_devices=2, zero_stage=stage)) for stage in range(4)),
]


def shape(case: Case) -> Shape:
    """As `sizing` has it."""
    heads, positions = case.width // 64, case.job.prompt_tokens + case.job.new_tokens
    return Shape(case.layers, case.width, heads, heads, 4 * case.width, case.vocab, False, True, positions)


def measured(case: Case, what: str) -> float:
    """Bytes or seconds; of several workers the first one's."""
    with tempfile.TemporaryDirectory() as folder:
        task: dict[str, Any] = {"what": what, "case": [*case[:3], asdict(case.job)], "folder": folder}
        command = [sys.executable, "-m", "benchmarks.planned_work", json.dumps(task)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((Path(folder) / "worker-0.json").read_text())


def name(job: Job) -> str:
    """The algorithm and what is special about it."""
    parts = ["GRPO" if job.group_size > 1 else f"PPO, {job.num_epochs} x {job.num_descents} descents"]
    parts += ["value network"] * job.has_value_network + [f"LoRA {job.lora_rank}"] * (job.lora_rank > 0)
    parts += [f"2 workers, ZeRO {job.zero_stage}"] * (job.num_devices > 1)
    return ", ".join(parts)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=["memory", "seconds"])
    parser.add_argument("--only", default="", help="rows whose job has this in it, such as LoRA or 'ZeRO 3'")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in name(case.job)]
    for what in arguments.tables:
        print(environment())
        if what == "seconds":
            core = device.measure()
            print(core)
        unit = "MB" if what == "memory" else "s a step"
        columns = ["layers x width, vocabulary", "sequences x tokens", "job"]
        columns += [f"measured, {unit}", f"expected, {unit}", "ratio"]
        print(f"| {' | '.join(columns)} |")
        print("|---|---|---|---|---|---|")
        for case in cases:
            j, there = case.job, measured(case, what)
            expected = memory(shape(case), j).peak if what == "memory" else step_time(shape(case), j, core).total
            digits = [f"{x / 1e6:,.0f}" if what == "memory" else f"{x:.2f}" for x in (there, expected)]
            cells = [
                f"{case.layers} x {case.width}, {case.vocab:,}",
                f"{j.num_sequences} x {j.prompt_tokens + j.new_tokens}", name(j), *digits, f"{expected / there:.2f}",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
