"""What `benchmarks.algorithms --out FOLDER` has kept as one picture: rewards step by step, and against KL at the end.

    python -m benchmarks.curves FOLDER --out docs/learning.png

On the left the mean reward of each step's samples, a line an algorithm and backend, averaged over seeds and smoothed
over ten steps; on the right what the policies earn on held-out prompts against how far they went, with 95 % intervals.
Prints reward and KL of the samples of the last steps: thousands of them, so known better than on the held-out prompts.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

SMOOTHED, LAST = 10, 30  # steps
COLOURS = ("#2B6FD0", "#D07A00", "#00A878", "#B4436C", "#6C5CE7", "#5C6B73", "#8AB17D", "#A0522D")


def main() -> None:
    """Read, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of benchmarks.algorithms --out")
    parser.add_argument("--out", type=Path, required=True, help="the picture, a .png")
    options = parser.parse_args()
    steps, ends = read(options.folder)
    draw(steps, ends, options.out)
    print(f"| run | reward of the last {LAST} steps (standard error) | their KL, nats/token |\n|---|---|---|")
    for name, seeds in steps.items():
        reward, kl = np.concatenate([seed[-LAST:] for seed in seeds]).T
        print(f"| {name} | {reward.mean():.3f} ({reward.std() / len(reward) ** 0.5:.3f}) | {kl.mean():.3f} |")


def read(folder: Path) -> tuple[dict[str, list[Any]], dict[str, list[dict[str, Any]]]]:
    """By algorithm and run: (steps, 2) rewards and KL of the samples, one a seed; held-out results, one a seed."""
    steps, ends = defaultdict(list), defaultdict(list)
    for run in sorted(folder.iterdir()):
        _, _, setting = run.name.partition("-")
        models = json.loads((run / "eval.json").read_text(encoding="utf-8"))["models"]
        for model in sorted(models.keys() - {"base", "sft"}):
            name = model if "+" in setting else f"{model}, {setting}"
            with (run / "metrics" / f"{model}.tsv").open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file, dialect="excel-tab")
                steps[name].append(np.array([[float(row["reward"]), float(row["kl"])] for row in rows]))
            ends[name].append(models[model])
    return steps, ends


def draw(steps: dict[str, list[Any]], ends: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Both halves of the picture."""
    figure = Figure(figsize=(12, 5.5), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    for name, colour in zip(steps, COLOURS, strict=False):
        rewards = np.mean(steps[name], 0)[:, 0]
        left.plot(np.convolve(rewards, np.ones(SMOOTHED) / SMOOTHED, "valid"), color=colour, linewidth=1.5, label=name)
        for end in ends[name]:
            mean, low, high = (end["reward"][key] for key in ("mean", "ci_low", "ci_high"))
            error = [[mean - low], [high - mean]]
            marker = "s" if "trl" in name else "o"
            right.errorbar(end["kl_nats"], mean, error, color=colour, fmt=marker, markersize=5, linewidth=1, capsize=2)
    left.set(xlabel="step", title="reward of the samples")
    right.set(xlabel="KL to the SFT model, nats per token", title="held-out reward, 95 % interval")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
