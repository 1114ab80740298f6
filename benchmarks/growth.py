"""How a step's cost grows with workers, model and sequence length: `python -m benchmarks.growth --out PICTURE.png`.

Above, small models on cores of this machine, measured as `benchmarks.planned` does and modelled by
`pipelines/devices.py` from what `benchmarks.device` finds; below, H100s, up to 70 billion weights and 64 nodes,
modelled alone, adapters on weights of four bits. A hollow circle is a training that does not fit. Prints the figures as
Markdown.
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from benchmarks import device
from benchmarks.pipeline import environment
from benchmarks.planned import Case, measured, shape
from pipelines.devices import DEVICES, Device, StepTime, step_time
from pipelines.sizing import MODELS, Job, Shape, memory, of_size

_MIDDLE = Case(4, 256, 2048, Job(num_sequences=64, group_size=8, prompt_tokens=8, new_tokens=24))
AXES = {"workers": "workers", "model": "weights", "length": "tokens"}
SMALL = {
    "workers": [_MIDDLE, _MIDDLE._replace(job=replace(_MIDDLE.job, num_devices=2))],
    "model": [_MIDDLE._replace(width=width) for width in (128, 256, 512)],
    "length": [_MIDDLE._replace(job=replace(_MIDDLE.job, new_tokens=num)) for num in (24, 56, 120)],
}
_FULL = Job(64, 3, precision="bfloat16", num_sequences=1024, group_size=8, prompt_tokens=256, new_tokens=256,
            tokens_per_pass=1024)  # fmt: skip
_ADAPTERS = replace(_FULL, zero_stage=0, lora_rank=16, is_four_bit=True)
_GPUS, _SIZES, _LENGTHS = (1, 8, 64, 512), (1e8, 1e9, 8e9, 70e9), (256, 1024, 4096)
LARGE: dict[str, dict[str, list[tuple[Shape, Job]]]] = {
    "workers": {
        "8B, ZeRO 3": [(MODELS["llama-3-8b"], replace(_FULL, num_devices=n)) for n in _GPUS],
        "70B, ZeRO 3": [(MODELS["llama-3-70b"], replace(_FULL, num_devices=n)) for n in _GPUS],
        "70B, LoRA 16": [(MODELS["llama-3-70b"], replace(_ADAPTERS, num_devices=n)) for n in _GPUS],
    },
    "model": {
        "64 GPUs, ZeRO 3": [(of_size(size), _FULL) for size in _SIZES],
        "64 GPUs, LoRA 16": [(of_size(size), _ADAPTERS) for size in _SIZES],
    },
    "length": {
        "8B, 64 GPUs, ZeRO 3": [(MODELS["llama-3-8b"], replace(_FULL, new_tokens=n)) for n in _LENGTHS],
        "70B, 64 GPUs, LoRA 16": [(MODELS["llama-3-70b"], replace(_ADAPTERS, new_tokens=n)) for n in _LENGTHS],
    },
}  # fmt: skip
COLOURS = ("#2B6FD0", "#D07A00", "#00A878")


class Point(NamedTuple):
    """A step: where it stands on its axis, what it takes, whether it fits, and what was measured, if anything."""

    x: float
    seconds: StepTime
    num_bytes: float
    fits: bool
    measured: float | None = None


def point(axis: str, what: Shape, job: Job, on: Device, found: float | None = None) -> Point:
    """Of `job` on devices like `on`."""
    places = {"workers": job.num_devices, "model": what.num_parameters, "length": job.prompt_tokens + job.new_tokens}
    peak = memory(what, job).peak
    return Point(places[axis], step_time(what, job, on), peak, peak <= 0.9 * on.memory, found)


def rows(axis: str, name: str, points: list[Point]) -> None:
    """Print a line a point."""
    for p in points:
        parts = [f"{part:.2f}" for part in (*asdict(p.seconds).values(), p.seconds.total)]
        parts += ["" if p.measured is None else f"{p.measured:.2f}", f"{p.num_bytes / 1e9:,.1f}"]
        cells = [name, f"{EngFormatter(places=0)(p.x)} {AXES[axis]}", *parts]
        print(f"| {' | '.join(cells)} | {'yes' if p.fits else 'no'} |")


def draw(axes: Any, axis: str, name: str, points: list[Point], colour: str) -> None:
    """A line, its points hollow where nothing fits, crosses where something was measured."""
    x, y = [p.x for p in points], [p.seconds.total for p in points]
    axes.plot(x, y, color=colour, linewidth=1.4, label=name)
    axes.scatter(x, y, s=22, edgecolors=colour, facecolors=[colour if p.fits else "white" for p in points], zorder=3)
    there = [(p.x, p.measured) for p in points if p.measured is not None]
    if there:
        axes.scatter(*zip(*there, strict=True), marker="x", s=60, color="#B4436C", label="measured", zorder=4)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the picture, a .png")
    options = parser.parse_args()
    print(environment())
    core, h100 = device.measure(), DEVICES["h100"]
    print("| what | varies | rollout, s | score, s | update, s | links, s | whole, s | measured, s | GB | fits |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    figure = Figure(figsize=(13, 7.5), layout="constrained", dpi=110)
    for axis, above, below in zip(AXES, *figure.subplots(2, 3), strict=True):
        small = [point(axis, shape(case), case.job, core, measured(case, "seconds")) for case in SMALL[axis]]
        rows(axis, "GPT-2, a core each", small)
        draw(above, axis, "modelled", small, COLOURS[0])
        for (name, jobs), colour in zip(LARGE[axis].items(), COLOURS, strict=False):
            points = [point(axis, what, job, h100) for what, job in jobs]
            rows(axis, name, points)
            draw(below, axis, name, points, colour)
        above.set_title("a core each: GPT-2 of 4 layers, 64 responses", fontsize=10)
        below.set_title("H100, modelled: 1,024 responses", fontsize=10)
        for each in (above, below):
            each.set(xlabel=AXES[axis], ylabel="seconds a step", xscale="log", yscale="log")
            each.grid(alpha=0.3, which="both")
            each.set_xticks(sorted({p.x for p in (small if each is above else points)}), minor=False)
            each.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
            each.xaxis.set_minor_formatter(NullFormatter())
            each.yaxis.set_major_formatter("{x:g}")
            each.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
            each.yaxis.set_minor_formatter("{x:g}")
            each.legend(fontsize=8)
    figure.savefig(options.out)


if __name__ == "__main__":
    main()
