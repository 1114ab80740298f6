"""The whole pipeline over several master seeds: what it learns, how long each stage takes, how much memory it needs.

    python -m benchmarks.pipeline --seeds 1 2 3
    python -m benchmarks.pipeline --seeds 1 2 3 --preset rt-polarity --data FOLDER

Runs `dvc repro` stage by stage in a fresh clone of the last commit, one clone a seed, and prints Markdown.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

STAGES = ("prepare", "base", "sft", "baseline", "reward", "train@ppo", "train@grpo", "evaluate", "plot")
MODELS = ("base", "sft", "ppo", "grpo")


def main() -> None:
    """Run the seeds one after the other and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--preset", help="parameters of presets/; those of params.yaml without it")
    parser.add_argument("--data", type=Path, help="the folder that the preset reads")
    options = parser.parse_args()
    preset = ["preset", options.preset] if options.preset else []
    preset += ["--data", str(options.data.resolve())] if options.data else []
    runs, where = [], environment()
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            runs.append(run_seed(Path(folder) / str(seed), seed, preset))
            print(
                f"seed {seed}: {sum(run[0] for run in runs[-1]['stages'].values()):.0f} s", file=sys.stderr, flush=True
            )
        print(where)
        print(learning_table(dict(zip(options.seeds, runs, strict=True))))
        print(stage_table(runs))
        print(overhead_table(Path(folder) / str(options.seeds[-1])))


def run_seed(clone: Path, seed: int, preset: list[str]) -> dict[str, Any]:
    """Seconds and peak memory (MB) of each stage, and reports/eval.json, from a fresh clone."""
    subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
    if preset:
        timed(clone, sys.executable, "-m", "pipelines", *preset)
    params = (clone / "params.yaml").read_text().splitlines()
    params = [f"seed: {seed}" if line.startswith("seed:") else line for line in params]
    (clone / "params.yaml").write_text("\n".join(params) + "\n")
    stages = {stage: timed(clone, sys.executable, "-m", "dvc", "repro", "--single-item", stage) for stage in STAGES}
    return {"stages": stages, "eval": json.loads((clone / "reports/eval.json").read_text())}


def timed(folder: Path, *command: str) -> tuple[float, float]:
    """(wall seconds, peak memory in MB of the largest process) of a command that must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PATH": path, "PYTHONPATH": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read().decode()[-3000:]}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


MEASURED = {"sentiment": "sentiment", "improvement_pct": "improvement, % (95 % interval)", "overlap": "overlap"}


def learning_table(runs: dict[int, dict[str, Any]]) -> str:
    """Every model of every seed, with the paired difference of its reward to SFT, and what its reward measured."""
    first = next(iter(runs.values()))["eval"]["models"]["sft"]
    measured = {key: title for key, title in MEASURED.items() if key in first}
    columns = ["seed", "model", "reward", "against SFT (95 % interval)", *measured.values(), "KL, nats/token"]
    columns += ["distinct-2 (of SFT's)", "self-BLEU", "repetition", "tokens", "perplexity word / phrase / sentence"]
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for seed, run in runs.items():
        models, paired = run["eval"]["models"], run["eval"]["paired"]
        for name in MODELS:
            m, ratio = models[name], models[name]["distinct_2"] / models["sft"]["distinct_2"]
            against = "" if name == "sft" else interval(paired[name]["reward"], "diff", 3)
            values = [interval(m[key], "mean", 1) if isinstance(m[key], dict) else f"{m[key]:.3f}" for key in measured]
            perplexity = " / ".join(f"{m['perplexity'][level]:.1f}" for level in ("word", "phrase", "sentence"))
            values = [f"{seed}", name, f"{m['reward']['mean']:.3f}", against, *values, f"{m['kl_nats']:.3f}"]
            values += [f"{m['distinct_2']:.3f} ({ratio:.2f})", f"{m['self_bleu']:.3f}", f"{m['repetition']:.3f}"]
            values += [f"{m['length']:.1f}", perplexity]
            rows.append(f"| {' | '.join(values)} |")
    return "\n".join(rows) + "\n"


def interval(summary: dict[str, float], key: str, digits: int) -> str:
    """A number with its interval, signs shown."""
    value, low, high = (f"{summary[name]:+.{digits}f}" for name in (key, "ci_low", "ci_high"))
    return f"{value} ({low} to {high})"


def stage_table(runs: list[dict[str, Any]]) -> str:
    """Median seconds over the seeds and the largest peak memory of each stage."""
    rows = ["| stage | seconds, median | seconds, all | peak memory, MB |", "|---|---|---|---|"]
    for stage in STAGES:
        seconds, memory = zip(*(run["stages"][stage] for run in runs), strict=True)
        every = ", ".join(f"{s:.0f}" for s in seconds)
        rows.append(f"| {stage} | {statistics.median(seconds):.1f} | {every} | {max(memory):.0f} |")
    totals = [sum(seconds for seconds, _ in run["stages"].values()) for run in runs]
    rows.append(f"| all | {statistics.median(totals):.0f} | {', '.join(f'{t:.0f}' for t in totals)} | |")
    return "\n".join(rows) + "\n"


def overhead_table(clone: Path, num: int = 5) -> str:
    """Median seconds of what does nothing: an up-to-date `dvc repro`, the flow over it, an import of the rewards."""
    commands = {
        "`dvc repro` with nothing to do": ("-m", "dvc", "repro"),
        "the flow with nothing to do": ("-m", "pipelines", "run"),
        "`import triplex.rewards.perplexity`": ("-c", "import triplex.rewards.perplexity"),
        "`import triplex.rewards.folder`": ("-c", "import triplex.rewards.folder"),
    }
    rows = ["| what | seconds, median | seconds, all |", "|---|---|---|"]
    for what, command in commands.items():
        seconds = [timed(clone, sys.executable, *command)[0] for _ in range(num)]
        rows.append(f"| {what} | {statistics.median(seconds):.1f} | {', '.join(f'{s:.1f}' for s in seconds)} |")
    return "\n".join(rows) + "\n"


def environment() -> str:
    """One line: date, commit, machine, versions."""
    from importlib.metadata import version

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "dvc", "prefect"))
    return (
        f"{date.today()}, commit {commit.stdout.strip()}, {os.cpu_count()} {platform.machine()} CPU cores, no GPU,"
        f" Python {platform.python_version()}, {packages}\n"
    )


if __name__ == "__main__":
    main()
