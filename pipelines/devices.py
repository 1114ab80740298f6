"""How long a step takes on machines that are not here: modelled from arithmetic, memory and links, never measured.

A decoding step reads all weights and the cache; everything else is matrix products. Links carry what ZeRO sends.
"""

from dataclasses import dataclass
from typing import NamedTuple

from pipelines.sizing import FLOAT, Job, Shape

#: shares of what the maker states that such work reaches; guesses, by which all seconds scale
_OF_ARITHMETIC, _OF_BANDWIDTH, _OF_LINK = 0.4, 0.6, 0.7
DEVICES_A_NODE = 8


class Device(NamedTuple):
    """What its maker's data sheet says."""

    memory: float  # bytes
    flops: float  # a second, dense, bfloat16
    bandwidth: float  # bytes a second, of its memory
    link: float  # bytes a second to the others of a node, one way
    network: float  # bytes a second to another node


#: NVIDIA's data sheets; a network of 400 Gbit/s a device (A100: 200)
DEVICES = {
    "a100": Device(80e9, 312e12, 2.0e12, 300e9, 25e9),
    "h100": Device(80e9, 989e12, 3.35e12, 450e9, 50e9),
    "h200": Device(141e9, 989e12, 4.8e12, 450e9, 50e9),
    "rtx4090": Device(24e9, 165e12, 1.0e12, 32e9, 3e9),
}


@dataclass(frozen=True)
class StepTime:
    """Seconds of each part of a step."""

    rollout: float
    score: float
    update: float
    links: float

    @property
    def total(self) -> float:
        """Of the step, without overlap."""
        return self.rollout + self.score + self.update + self.links


def step_time(shape: Shape, job: Job, device: Device) -> StepTime:
    """Of PPO or GRPO with these sizes; the attention's squares and the reward are left out."""
    flops, bandwidth = device.flops * _OF_ARITHMETIC, device.bandwidth * _OF_BANDWIDTH
    number = 2 if job.precision == "bfloat16" else FLOAT
    weights, sequences = shape.num_parameters, job.num_sequences / job.num_devices
    tokens = sequences * (job.prompt_tokens + job.new_tokens)
    cache = 2 * shape.num_layers * shape.kv_size * number * sequences * (job.prompt_tokens + job.new_tokens / 2)
    a_token = max((number * weights + cache) / bandwidth, 2 * weights * sequences / flops)
    models = 2 if job.has_value_network else 1
    backward = 2 if job.lora_rank else 4  # frozen weights get no gradient
    return StepTime(
        rollout=job.new_tokens * a_token + 2 * weights * sequences * job.prompt_tokens / flops,
        score=2 * weights * tokens * models / flops,
        update=job.num_epochs * models * (2 + backward) * weights * tokens / flops,
        links=_sent(shape, job, models) / (_slowest(job, device) * _OF_LINK),
    )


def _sent(shape: Shape, job: Job, models: int) -> float:
    """Bytes of a device: gradients are added up and weights put together once a descent; at stage 3 weights again for
    the forward and the backward pass, and for sampling and scoring."""
    if job.num_devices == 1:
        return 0.0
    learning = models * shape.num_parameters if job.lora_rank == 0 else shape.num_adapter(job.lora_rank)
    once = FLOAT * learning * (job.num_devices - 1) / job.num_devices
    descents = job.num_epochs * job.num_descents
    if job.zero_stage < 3:
        return 2 * once * descents
    passes = max(1, round(job.num_sequences * (job.prompt_tokens + job.new_tokens)
                          / job.num_devices / job.num_descents / job.tokens_per_pass))  # fmt: skip
    whole = FLOAT * models * shape.num_parameters * (job.num_devices - 1) / job.num_devices
    return once * descents + whole * (2 * passes * descents + 2)


def _slowest(job: Job, device: Device) -> float:
    """A ring is as fast as its slowest link."""
    return device.link if job.num_devices <= DEVICES_A_NODE else device.network
