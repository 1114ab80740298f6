"""`python -m pipelines plan`: what a training would take on machines that are not here."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from pipelines.devices import DEVICES, StepTime, step_time
from pipelines.sizing import Job, Memory, Shape, find_shape, memory
from triplex.runs.errors import InputError
from triplex.runs.params import nearest

EXAMPLES = """
* `python -m pipelines plan --model models/base`: the model here, one H100
* `python -m pipelines plan --model llama-3-8b --gpus 8 --zero-stage 3`: does it fit?
* `python -m pipelines plan --model 70B --gpus 64 --lora-rank 16 --four-bit`: a model of that size
"""
_GB = 1e9
_RANK = 16  # of adapters, where a plan without them does not fit
_OPTIONS = {
    "num_devices": "--gpus {}",
    "zero_stage": "--zero-stage {}",
    "lora_rank": "--lora-rank {}",
    "is_four_bit": "--four-bit",
}
_SPARE = 0.1  # of a device's memory, for the runtime and what its allocator cannot use


def plan(
    model: Annotated[str, typer.Option(help="A folder, a name such as llama-3-8b, or a size such as 13B.")],
    gpus: Annotated[int, typer.Option(min=1, help="Devices, all of the kind of --device; eight a node.")] = 1,
    device: Annotated[str, typer.Option(help=f"{', '.join(DEVICES)}.")] = "h100",
    zero_stage: Annotated[int, typer.Option(min=0, max=3, help="deepspeed.zero_stage of compute")] = 0,
    precision: Annotated[Literal["float32", "bfloat16"], typer.Option(help="compute.precision")] = "bfloat16",
    lora_rank: Annotated[int, typer.Option(min=0, help="train.lora.rank")] = 0,
    four_bit: Annotated[bool, typer.Option("--four-bit", help="Frozen weights in NF4, as Unsloth loads them.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="train.batch_size, responses of a step")] = 256,
    group_size: Annotated[int, typer.Option(min=1, help="grpo.group_size; 1 for PPO")] = 1,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 256,
    new_tokens: Annotated[int, typer.Option(min=1, help="train.max_new_tokens")] = 256,
    tokens_per_pass: Annotated[int, typer.Option(min=1, help="max_tokens_per_pass of train, on each device")] = 8192,
    value_network: Annotated[bool, typer.Option("--value-network", help="ppo.value.kind = network")] = False,
    minibatches: Annotated[int, typer.Option(min=1, help="num_minibatches, descents of an epoch")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="num_epochs")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="For a script.")] = False,
) -> None:
    """Memory of a device by part and phase, the largest batch that fits, and the seconds of a step.

    Held against measured trainings on CPU cores; a GPU's seconds are modelled from its data sheet and were measured
    nowhere: docs/scaling.md has the formulas. Exit code 2: a mistake in the input.
    """
    if device not in DEVICES:
        raise InputError(f"--device {device}", "not known", nearest(device, DEVICES))
    if four_bit and not lora_rank:
        raise InputError("--four-bit", "weights of four bits do not learn", "add --lora-rank 16")
    shape = find_shape(model)
    job = Job(
        gpus, zero_stage, lora_rank, four_bit, precision, batch_size, group_size, prompt_tokens, new_tokens,
        tokens_per_pass, value_network, num_descents=minibatches, num_epochs=epochs,
    )  # fmt: skip
    found, room = memory(shape, job), DEVICES[device].memory * (1 - _SPARE)
    seconds = step_time(shape, job, DEVICES[device])
    largest = {
        "batch_size": largest_that_fits(lambda n: memory(shape, replace(job, num_sequences=n * gpus)), room) * gpus,
        "tokens_per_pass": min(
            largest_that_fits(lambda n: memory(shape, replace(job, tokens_per_pass=n)), room),
            -(-batch_size // gpus) * (prompt_tokens + new_tokens),
        ),
    }
    smaller = [f"--{name.replace('_', '-')} {number}" for name, number in largest.items() if number]
    ways = [] if found.peak <= room else smaller + what_would_fit(shape, job, room)
    if as_json:
        told = {"parameters": shape.num_parameters, "bytes": asdict(found), "peak": found.peak, "room": room}
        typer.echo(json.dumps(told | {"largest": largest, "would_fit": ways, "seconds": asdict(seconds)}))
        return
    console = Console(highlight=False)
    console.print(f"{shape.num_parameters / _GB:,.2f} billion weights, {gpus} x {device}, ZeRO {zero_stage}\n")
    console.print(_memory_table(found))
    verdict = "[green]fits[/]" if found.peak <= room else "[red]does not fit[/]"
    console.print(
        f"{verdict}: {found.peak / _GB:,.1f} GB at the peak, {room / _GB:,.1f} GB on a device with a tenth to spare"
    )
    if found.peak <= room:
        console.print(f"at most batch_size {largest['batch_size']:,} with these passes")
        console.print(f"at most tokens_per_pass {largest['tokens_per_pass']:,} with this batch\n")
    else:
        head = "would fit with any one of" if len(ways) > 1 else "would fit with"
        console.print("\n  ".join([head, *(ways or ["a smaller model, or larger devices"])]), end="\n\n")
    console.print(_time_table(shape, job, seconds))


def what_would_fit(shape: Shape, job: Job, room: float) -> list[str]:
    """Options that make a job fit which does not: the fewest devices and the lowest stage, as it is, with adapters, and
    with these on four bits; not the latter where the former needs no more devices."""
    divided = [(job.num_devices * 2**n, stage) for n in range(8) for stage in range(job.zero_stage, 4)]
    rank, found = job.lora_rank or _RANK, []
    ways = [(job.lora_rank, job.is_four_bit), (rank, job.is_four_bit), (rank, True)]
    for lora_rank, is_four_bit in dict.fromkeys(ways):
        frozen = replace(job, lora_rank=lora_rank, is_four_bit=is_four_bit)
        jobs = (replace(frozen, num_devices=number, zero_stage=stage) for number, stage in divided)
        fitting = next((each for each in jobs if memory(shape, each).peak <= room), None)
        if fitting:
            changed = [name for name in _OPTIONS if getattr(fitting, name) != getattr(job, name)]
            found.append(" ".join(_OPTIONS[name].format(getattr(fitting, name)) for name in changed))
            if fitting.num_devices == job.num_devices:
                break
    return found


def largest_that_fits(of: Callable[[int], Memory], room: float) -> int:
    """The largest number for which memory is enough, up to a million; 0 for none."""
    low, high = 0, 2**20
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if of(middle).peak <= room else (low, middle - 1)
    return low


def _memory_table(found: Memory) -> Table:
    table = Table("when", "what", Column("GB of a device", justify="right"), box=None)
    for name, number in found.stays.items():
        table.add_row("the whole time", name, f"{number / _GB:,.2f}")
    for phase, parts in found.phases.items():
        for name, number in parts.items():
            if number:
                table.add_row(phase, name, f"{number / _GB:,.2f}")
    return table


def _time_table(shape: Shape, job: Job, seconds: StepTime) -> Table:
    table = Table("seconds of a step", Column("modelled", justify="right"), box=None)
    for name, number in asdict(seconds).items():
        table.add_row(name, f"{number:,.2f}")
    tokens = job.num_sequences * job.new_tokens / seconds.total
    table.add_row("whole", f"{seconds.total:,.2f}")
    table.add_row("new tokens a second", f"{tokens:,.0f}")
    return table
