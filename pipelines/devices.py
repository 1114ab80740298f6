"""How long a step takes on machines that are not here: arithmetic, memory and links, and what a layer costs at least.

docs/scaling.md holds the formulas against measured steps of a CPU's core; of GPUs they were measured nowhere.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from pipelines.sizing import FLOAT, LIVE, NUM_BYTES, Job, Shape, kept_of_a_token, passes, tokens_of_a_pass

DEVICES_A_NODE = 8
#: times that a number which is kept for the backward pass is read or written forward; backward twice as often
_MOVED, _MOVED_LOGITS = 4, 4
_ADAPTED = 1.7  # times that a layer with adapters costs, where it computes nothing and in what it moves
#: numbers moved for a weight that learns: of AdamW 4 read and 3 written, clipping 2, the norm; DeepSpeed takes the norm
#: of a copy in float64 (5), makes gradients one tensor (2) and copies what has descended into the weights (2)
_DESCENT, _DEEPSPEED_DESCENT = 10, 18


class Device(NamedTuple):
    """Bytes, and what training reaches of them, or of operations, a second."""

    memory: float
    flops: dict[str, float]  # of matrix products, by precision
    weights: float  # bytes a second at which a product of few rows takes its weights in
    bandwidth: float  # bytes a second that operations other than products read and write
    link: float  # bytes a second to the others of a node, one way
    network: float  # bytes a second to another node
    layer: float  # seconds that running a layer takes where there is nothing to compute
    has_reduce_scatter: bool = True  # else a sum of which each device wants a part is told to all of them, of a copy


def _from_data_sheet(memory: float, float32: float, bfloat16: float, bandwidth: float, link: float,
                     network: float) -> Device:  # fmt: skip
    """Of what its maker states 0.4 of the arithmetic, 0.6 of the memory's bandwidth, 0.7 of the links: guesses."""
    flops = {"float32": 0.4 * float32, "bfloat16": 0.4 * bfloat16}
    return Device(memory, flops, 0.6 * bandwidth, 0.6 * bandwidth, 0.7 * link, 0.7 * network, 50e-6)


#: NVIDIA's data sheets (dense), a network of 400 Gbit/s a device (A100: 200); `python -m benchmarks.device`
DEVICES = {
    "a100": _from_data_sheet(80e9, 19.5e12, 312e12, 2.0e12, 300e9, 25e9),
    "h100": _from_data_sheet(80e9, 67e12, 989e12, 3.35e12, 450e9, 50e9),
    "h200": _from_data_sheet(141e9, 67e12, 989e12, 4.8e12, 450e9, 50e9),
    "rtx4090": _from_data_sheet(24e9, 83e12, 165e12, 1.0e12, 32e9, 3e9),
    "cpu-core": Device(12.6e9, {"float32": 162e9, "bfloat16": 1.1e12}, 5.8e9, 14e9, 1.1e9, 1.1e9, 0.24e-3, False),
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
    """Of PPO or GRPO with these sizes; the reward is left out."""
    models = 2 if job.has_value_network else 1
    learning = models * shape.num_parameters if job.lora_rank == 0 else shape.num_adapter(job.lora_rank)
    descents = job.num_epochs * job.num_descents
    products, rest = _forward(shape, job, device)
    times = 2 if job.lora_rank else 3  # of products: forward, gradients of states, and of weights that are not frozen
    whole, reference, fetched = _put_together(shape, job, models)
    moved = FLOAT * (_moved(job, learning, device) + fetched)
    descent = models * (times * products + 3 * rest) + moved / device.bandwidth
    scoring = models * sum(_forward(shape, replace(job, num_descents=1, lora_rank=0), device))  # adapters are off
    return StepTime(
        rollout=_rollout(shape, job, device) + FLOAT * whole / device.bandwidth,
        score=scoring + (FLOAT * whole + NUM_BYTES[job.precision] * reference) / device.bandwidth,
        update=descents * descent,
        links=_sent(shape, job, models, learning, device) / _slowest(job, device),
    )


def _rollout(shape: Shape, job: Job, device: Device) -> float:
    """The prompts once, then for each new token all weights and the cache."""
    sequences = job.num_sequences / job.num_devices
    length = job.prompt_tokens + job.new_tokens // 2  # on average
    cache = 2 * NUM_BYTES[job.precision] * shape.num_layers * shape.kv_size * length * sequences
    prompts = sum(_pass(shape, job, device, sequences / job.group_size * job.prompt_tokens, 0, job.prompt_tokens))
    token = sum(_pass(shape, job, device, sequences, sequences, length)) + cache / device.weights
    return prompts + job.new_tokens * token


def _forward(shape: Shape, job: Job, device: Device) -> tuple[float, float]:
    """Of the device's rows of a descent, in passes: as `_pass` has it."""
    tokens, responses = tokens_of_a_pass(job)
    products, rest = _pass(shape, job, device, tokens, responses, job.prompt_tokens + job.new_tokens, job.calls)
    return passes(job) * products, passes(job) * rest


def _pass(
    shape: Shape, job: Job, device: Device, tokens: float, responses: float, length: int, times: int = 1
) -> tuple[float, float]:  # fmt: skip
    """Seconds forward, over tokens that attend to `length` others, with the logits of the responses among them: of
    products, for operations and weights, taken in `times`, and of the rest, which moves numbers and starts layers."""
    linear, head = shape.num_linear + shape.num_adapter(job.lora_rank), shape.hidden_size * shape.vocab_size
    attention = 4 * shape.num_layers * shape.hidden_size * length * tokens
    operations = 2 * linear * tokens + attention + 2 * head * responses
    weights = times * NUM_BYTES[job.precision] * (linear + head)
    moved = _MOVED * NUM_BYTES[job.precision] * tokens * shape.num_layers * kept_of_a_token(shape, length)
    starts = times * shape.num_layers * device.layer
    layers = (moved / device.bandwidth + starts) * (_ADAPTED if job.lora_rank else 1)
    logits = _MOVED_LOGITS * FLOAT * shape.vocab_size * responses / device.bandwidth
    return operations / device.flops[job.precision] + weights / device.weights, layers + logits


def _moved(job: Job, learning: float, device: Device) -> float:
    """Numbers of gradients and weights read and written for one descent: at stage 0 gradients go into one message and
    out of it. DeepSpeed copies them into its message, at stage 3 in the workers' order, and divides them there, and its
    part out of it, which it adds to that of the passes before; then it descends on its part."""
    own = learning / job.num_devices
    if job.zero_stage == 0:
        return _DESCENT * learning + (4 * learning if job.num_devices > 1 else 0)
    times = _messages(job)
    kept = 5 * times - 3 if job.zero_stage < 3 else 3 * times - 1
    copied = 2 * learning
    if job.zero_stage == 3:
        copied = 4 * learning if device.has_reduce_scatter else 6 * learning + 2 * own
    return _DEEPSPEED_DESCENT * own + times * copied + kept * own


def _messages(job: Job) -> float:
    """Times that gradients are added up for a descent: from stage 2 on no worker keeps them between its passes."""
    return passes(job) if job.zero_stage > 1 else 1.0


def _fetched_in_a_pass(shape: Shape, job: Job) -> float:
    """Weights at stage 3: once, and what DeepSpeed has not kept again: at the turn to the backward pass half of what it
    looks ahead is there still; the responses come after all of the prompts' layers, forward and backward."""
    weights = shape.num_parameters * (2 if job.has_value_network else 1)
    again = 2 * (job.calls - 1) * weights + shape.hidden_size * shape.vocab_size * shape.is_tied  # for the head
    return weights + max(0.0, weights - LIVE / 2) + (again if weights > LIVE else 0)


def _of_the_reference(shape: Shape, job: Job) -> float:
    """Weights that torch's FSDP puts together for scoring: layers as often as they are called, the rest once a pass."""
    in_a_pass = job.calls * shape.num_linear + shape.num_embedding
    return 0 if job.lora_rank else passes(replace(job, num_descents=1)) * in_a_pass


def _put_together(shape: Shape, job: Job, models: int) -> tuple[float, float, float]:
    """Numbers read and written at stage 3: of the weights for sampling, as for scoring; of the reference; of weights
    for the passes of a descent. A device's own part goes to its place; of the latter two all go through a message."""
    if job.zero_stage < 3 or job.num_devices == 1:
        return 0, 0, 0
    own = 2 / job.num_devices
    by_message = 2 * own + 2
    fetched = passes(job) * _fetched_in_a_pass(shape, job)
    return own * models * shape.num_parameters, by_message * _of_the_reference(shape, job), by_message * fetched


def _sent(shape: Shape, job: Job, models: int, learning: float, device: Device) -> float:
    """Bytes of a device: all gradients are added up, from stage 1 on the new weights are put together; at stage 3 each
    device gets its part of the gradients alone, and weights for the passes, for sampling and for scoring, and the
    reference's in each of its passes."""
    others = (job.num_devices - 1) / job.num_devices
    gradients, descents = FLOAT * learning * others, job.num_epochs * job.num_descents
    if job.zero_stage < 3:
        return descents * gradients * (2 * _messages(job) + (job.zero_stage > 0))
    sums = descents * _messages(job) * gradients * (1 if device.has_reduce_scatter else 2)
    weights = 2 * models * shape.num_parameters + descents * passes(job) * _fetched_in_a_pass(shape, job)
    return sums + others * (FLOAT * weights + NUM_BYTES[job.precision] * _of_the_reference(shape, job))


def _slowest(job: Job, device: Device) -> float:
    """A ring is as fast as its slowest link."""
    return device.link if job.num_devices <= DEVICES_A_NODE else device.network
