"""How a training step grows, and how far it is from what the machine's arithmetic allows: `python -m benchmarks.step`.

One run, as many threads as OMP_NUM_THREADS says (else as there are cores). From a middle (4 layers, 128 wide, 64
responses of 32 tokens) the batch, the length, the width and the depth are each made smaller and larger. Of every step
the parts are timed: rollout, score (decoding and the reward function), reference (its log-probs) and update. Beside
each stands its floor: the multiplications and additions that it cannot do without, over what the machine does a second
in a large float32 matrix product, measured in the same run. The last line is JSON, with --json it alone:
  gemm_gflops                  of the matrix product
  step_s, rollout_s, ...       seconds, in the middle; medians over steps
  of_floor, rollout_of_floor   floor over seconds, in the middle: 1 would be all that the machine can do
  batch_exponent, ...          by what power of the batch, the length, the width, the depth a step grows, smallest to
                               largest; below 1 where a larger one fills the machine better
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers.utils import logging

from benchmarks.training import GROUP_SIZE, PPO_EPOCHS, EvenTokens, Size, make_trainer, write_model
from triplex.rl.batch import Batch

MIDDLE = Size(num_layers=4, hidden_size=128, num_heads=4, vocab_size=2048, num_sequences=64)
GROWTH = {
    "batch": [MIDDLE._replace(num_sequences=num) for num in (16, 64, 256)],
    "length": [MIDDLE._replace(new_tokens=num) for num in (16, 32, 64, 128)],
    "width": [MIDDLE._replace(hidden_size=num) for num in (64, 128, 256)],
    "depth": [MIDDLE._replace(num_layers=num) for num in (2, 4, 8)],
}
FACTORS = {"batch": "num_sequences", "length": "new_tokens", "width": "hidden_size", "depth": "num_layers"}
PARTS = ("rollout", "score", "reference", "update")
NUM_STEPS, GEMM_SIZE = 5, 1536  # steps timed after the first


def gemm_peak() -> float:
    """Float32 operations a second in a square matrix product; the best of ten."""
    a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * GEMM_SIZE**3 / min(seconds)


def forward_flops(size: Size, num_prompts: int) -> float:
    """Of one pass over all tokens, those of a prompt `num_prompts` times; logits for response tokens alone.

    A token costs 24 * width^2 operations a layer, and 4 * width a layer for each token that it attends to.
    """
    num_tokens = num_prompts * size.prompt_tokens + size.num_sequences * size.new_tokens
    width, length = size.hidden_size, size.prompt_tokens + size.new_tokens
    pairs = num_prompts * size.prompt_tokens**2 / 2 + size.num_sequences * (length**2 - size.prompt_tokens**2) / 2
    trunk = size.num_layers * (24 * width**2 * num_tokens + 4 * width * pairs)
    return trunk + 2 * width * size.vocab_size * size.num_sequences * size.new_tokens


def floors(name: str, size: Size, peak: float) -> dict[str, float]:
    """Seconds that each part needs at least; an update is a forward pass and a backward one of twice its cost."""
    group, epochs = (GROUP_SIZE, 1) if name == "grpo" else (1, PPO_EPOCHS)
    one = forward_flops(size, size.num_sequences) / peak
    rollout = forward_flops(size, size.num_sequences // group) / peak
    return {"rollout": rollout, "score": 0.0, "reference": one, "update": 3 * epochs * one}


def parts_of_steps(name: str, size: Size) -> dict[str, float]:
    """Seconds of each part of a step: the median over NUM_STEPS steps."""
    with TemporaryDirectory() as folder:
        write_model(size, Path(folder))
        trainer = make_trainer(name, size, Path(folder), NUM_STEPS + 2, EvenTokens())
    distance = trainer._distance
    distances: list[float] = []

    def timed_distance(part: Batch) -> tuple[Tensor, Tensor]:
        begin = time.perf_counter()
        found = distance(part)
        distances.append(time.perf_counter() - begin)
        return found

    trainer._distance = timed_distance  # type: ignore[method-assign]
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    for step in range(NUM_STEPS + 1):
        distances.clear()
        start = time.perf_counter()
        rollout = trainer.rollout(step)
        sampled = time.perf_counter()
        batch, _ = trainer.score(rollout)
        scored = time.perf_counter()
        trainer.update(step, trainer.algorithm.estimate_advantages(batch, trainer.kl.coef), rollout)
        updated = time.perf_counter()
        reference = sum(distances)
        parts = (sampled - start, scored - sampled - reference, reference, updated - scored)
        for part, seconds in zip(PARTS, parts, strict=True):
            found[part].append(seconds)
    return {part: statistics.median(seconds[1:]) for part, seconds in found.items()}


def line(size: Size, parts: dict[str, float], least: dict[str, float]) -> str:
    """A line of the table: the step, then of each part its seconds, its share of the step, its floor's share of it."""
    total = sum(parts.values())
    cells = [f"{total:8.3f} s {sum(least.values()) / total:4.0%}"]
    cells += [f"{seconds:8.3f} {seconds / total:4.0%} {least[part] / seconds:4.0%}" for part, seconds in parts.items()]
    return f"{size.num_sequences:5} {size.new_tokens:4} {size.hidden_size:5} {size.num_layers:3} " + " ".join(cells)


def main() -> None:
    """Print the table, and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the last line, JSON, alone")
    parser.add_argument("--algorithm", choices=["grpo", "ppo", "ppo_network"], default="grpo")
    options = parser.parse_args()
    logging.set_verbosity_error()

    peak = gemm_peak()
    sizes = list(dict.fromkeys(size for sizes in GROWTH.values() for size in sizes))
    measured = {size: parts_of_steps(options.algorithm, size) for size in sizes}
    least = {size: floors(options.algorithm, size, peak) for size in sizes}
    if not options.json:
        print(f"{options.algorithm}; {peak / 1e9:.0f} Gflop/s; of each part: seconds, share of the step, floor of it")
        print("batch   new width dep      step        " + "".join(f"{part:19}" for part in PARTS))
        for size in sizes:
            print(line(size, measured[size], least[size]))
    middle, total = measured[MIDDLE], sum(measured[MIDDLE].values())
    result = {"gemm_gflops": peak / 1e9, "step_s": total, "of_floor": sum(least[MIDDLE].values()) / total}
    result |= {f"{part}_s": middle[part] for part in PARTS}
    result |= {f"{part}_of_floor": least[MIDDLE][part] / middle[part] for part in PARTS if part != "score"}
    for name, column in GROWTH.items():
        first, last = column[0], column[-1]
        growth = math.log(sum(measured[last].values()) / sum(measured[first].values()))
        result[f"{name}_exponent"] = growth / math.log(getattr(last, FACTORS[name]) / getattr(first, FACTORS[name]))
    print(json.dumps({name: round(value, 3) for name, value in result.items()}))


if __name__ == "__main__":
    main()
