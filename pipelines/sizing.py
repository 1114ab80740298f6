"""What a training takes before anybody has the machines: bytes of each device.

Formulas, with what they were held against in docs/scaling.md. Weights that learn are float32, with passes in
`precision`, in which the reference stands, where there is one.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from triplex.runs.errors import InputError
from triplex.runs.params import nearest

FLOAT = 4
NUM_BYTES = {"float32": 4, "bfloat16": 2}
LIVE = 1e9  #: weights, at most, until whose end DeepSpeed's stage 3 looks for one that comes again, which it then keeps
_FOUR_BIT = 0.516  # NF4 with double quantisation, arXiv 2305.14314: 4.127 bits a weight


@dataclass(frozen=True)
class Shape:
    """What a decoder's memory and arithmetic depend on."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    ffn_size: int
    vocab_size: int
    is_gated: bool = True  # three matrices in the feed-forward network, as in Llama, not two, as in GPT-2
    is_tied: bool = False  # the head is the embedding
    num_positions: int = 0  # that have weights

    @property
    def kv_size(self) -> int:
        """Width of a layer's keys."""
        return self.hidden_size * self.num_kv_heads // self.num_heads

    @property
    def num_linear(self) -> int:
        """Weights in the matrices of the layers."""
        attention = self.hidden_size * (2 * self.hidden_size + 2 * self.kv_size)
        return self.num_layers * (attention + (3 if self.is_gated else 2) * self.hidden_size * self.ffn_size)

    @property
    def num_embedding(self) -> int:
        """Weights of embedding and head."""
        return self.hidden_size * (self.vocab_size * (1 if self.is_tied else 2) + self.num_positions)

    @property
    def num_parameters(self) -> int:
        """All weights, but for biases and norms."""
        return self.num_linear + self.num_embedding

    def num_adapter(self, rank: int) -> int:
        """Weights of low-rank adapters on every matrix of the layers."""
        ends = 4 * self.hidden_size + 2 * (self.hidden_size + self.kv_size)
        ends += (3 if self.is_gated else 2) * (self.hidden_size + self.ffn_size)
        return rank * self.num_layers * ends


def _gpt2(num_layers: int, hidden_size: int, num_heads: int) -> Shape:
    return Shape(num_layers, hidden_size, num_heads, num_heads, 4 * hidden_size, 50257, False, True, 1024)


#: from the config.json of each on the Hugging Face hub
MODELS = {
    "distilgpt2": _gpt2(6, 768, 12), "gpt2": _gpt2(12, 768, 12), "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20), "gpt2-xl": _gpt2(48, 1600, 25),
    "qwen2.5-0.5b": Shape(24, 896, 14, 2, 4864, 151936, is_tied=True),
    "qwen2.5-7b": Shape(28, 3584, 28, 4, 18944, 152064),
    "mistral-7b": Shape(32, 4096, 32, 8, 14336, 32768), "llama-3-8b": Shape(32, 4096, 32, 8, 14336, 128256),
    "llama-3-70b": Shape(80, 8192, 64, 8, 28672, 128256),
}  # fmt: skip


def find_shape(name: str) -> Shape:
    """Of a model folder, of a name in MODELS, or of a size such as 350M or 13B; InputError for anything else."""
    if (Path(name) / "config.json").is_file():
        return shape_of(json.loads((Path(name) / "config.json").read_text(encoding="utf-8")))
    if name.lower() in MODELS:
        return MODELS[name.lower()]
    number, unit = name[:-1], name[-1:].upper()
    try:
        return of_size(float(number) * {"M": 1e6, "B": 1e9}[unit])
    except (ValueError, KeyError):
        what = "no model folder, no known name, and no size such as 350M or 13B"
        raise InputError(f"--model {name}", what, nearest(name.lower(), MODELS)) from None


def shape_of(config: dict[str, Any]) -> Shape:
    """From a config.json."""
    config = config.get("text_config", config)
    if "n_embd" in config:  # GPT-2's own names
        hidden, heads = config["n_embd"], config["n_head"]
        ffn_size = config.get("n_inner") or 4 * hidden
        is_tied = config.get("tie_word_embeddings", True)
        return Shape(
            config["n_layer"], hidden, heads, heads, ffn_size, config["vocab_size"], False, is_tied,
            config["n_positions"],
        )  # fmt: skip
    heads = config["num_attention_heads"]
    return Shape(
        config["num_hidden_layers"], config["hidden_size"], heads, config.get("num_key_value_heads", heads),
        config["intermediate_size"], config["vocab_size"], is_tied=config.get("tie_word_embeddings", False),
    )  # fmt: skip


def of_size(num_parameters: float) -> Shape:
    """Like Llama 3: 128 of width a layer, a feed-forward network of 3.5 widths, 4 heads to a key, its vocabulary."""
    low, high = 1, 400
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _like_llama(middle).num_parameters < num_parameters else (low, middle)
    return _like_llama(low)


def _like_llama(num_layers: int) -> Shape:
    width = 128 * num_layers
    return Shape(num_layers, width, num_layers, max(1, num_layers // 4), 7 * width // 2, 128256)


@dataclass(frozen=True)
class Job:
    """How it is trained; sequences and tokens are those of a whole step, over all devices."""

    num_devices: int = 1
    zero_stage: int = 0
    lora_rank: int = 0
    is_four_bit: bool = False
    precision: str = "float32"
    num_sequences: int = 64
    group_size: int = 1
    prompt_tokens: int = 8
    new_tokens: int = 32
    tokens_per_pass: int = 2048
    has_value_network: bool = False
    exact_kl: bool = False
    num_descents: int = 1
    num_epochs: int = 1

    @property
    def prompts_a_row(self) -> float:
        """Prompts that are read for a row: one for all of a group that a shuffle has left in the same descent."""
        return self.num_descents * (1 - (1 - 1 / self.num_descents) ** self.group_size) / self.group_size

    @property
    def calls(self) -> int:
        """Of the layers in a pass: where prompts have several responses, first for them."""
        return 2 if self.group_size > 1 else 1


@dataclass(frozen=True)
class Memory:
    """Bytes of one device: what stays, and what each phase of a step adds; a phase's parts are alive together."""

    stays: dict[str, float]
    phases: dict[str, dict[str, float]]

    @property
    def peak(self) -> float:
        """Bytes in the most hungry phase."""
        return sum(self.stays.values()) + max(sum(parts.values()) for parts in self.phases.values())


def memory(shape: Shape, job: Job) -> Memory:
    """Of the training loop of `train@*`."""
    n, stage, number = job.num_devices, job.zero_stage, NUM_BYTES[job.precision]
    models = 2 if job.has_value_network else 1  # that learn
    learning = models * shape.num_parameters if job.lora_rank == 0 else shape.num_adapter(job.lora_rank)
    frozen = shape.num_parameters if job.lora_rank else 0
    of_frozen = _FOUR_BIT * shape.num_linear + 2 * shape.num_embedding if job.is_four_bit else FLOAT * frozen
    weights = FLOAT * learning + (of_frozen if job.lora_rank else 0)
    reference = 0 if job.lora_rank else number * shape.num_parameters
    of_gradients = FLOAT * learning
    stays = {
        "weights": weights / (n if stage == 3 else 1),
        "reference": reference / (n if stage == 3 else 1),
        "gradients": of_gradients / (n if stage >= 2 else 1),
        "optimiser": 2 * FLOAT * learning / (n if stage >= 1 else 1),
        # DeepSpeed descends on a flat copy of the weights; torch.distributed adds gradients up in one message
        "copies": FLOAT * learning / n if stage else of_gradients if n > 1 else 0,
    }
    whole = weights if stage == 3 else 0.0  # put together beside the part, for sampling and scoring
    layer = number * (shape.num_embedding + shape.num_linear / shape.num_layers) if stage == 3 and reference else 0.0
    together = min(whole, FLOAT * LIVE)
    phases = {
        "rollout": {"weights put together": whole} | _rollout(shape, job),
        "score": {"weights put together": whole, "a layer of the reference": layer} | _scoring(shape, job),
        "update": {
            "weights put together": together,
            # the embedding's is the largest: whole as it comes, where gradients are divided, and as it is sent
            "a gradient": 0 if job.lora_rank else FLOAT * shape.hidden_size * shape.vocab_size * min(stage, 2),
        } | _update(shape, job),
    }  # fmt: skip
    if job.calls == 2:
        phases["prompts' backward"] = {"weights put together": together} | _backward(shape, job, of_gradients)
    return Memory(stays, phases)


def _rollout(shape: Shape, job: Job) -> dict[str, float]:
    """Keys and values of the device's sequences, and the logits of one token of each."""
    sequences = math.ceil(job.num_sequences / job.num_devices)
    length = job.prompt_tokens + job.new_tokens
    cache = 2 * shape.num_layers * shape.kv_size * NUM_BYTES[job.precision] * sequences * length
    return {"cache": cache, "logits": 3 * FLOAT * shape.vocab_size * sequences}


def tokens_of_a_pass(job: Job) -> tuple[float, int]:
    """(tokens, responses' tokens among them) of the largest pass of a device."""
    length = job.prompt_tokens + job.new_tokens
    sequences = math.ceil(job.num_sequences / job.num_devices / job.num_descents)
    rows = max(1, min(sequences, job.tokens_per_pass // length))
    prompts = max(1.0, rows * job.prompts_a_row)
    return prompts * job.prompt_tokens + rows * job.new_tokens, rows * job.new_tokens


def passes(job: Job) -> float:
    """Of the device's rows of a descent."""
    _, responses = tokens_of_a_pass(job)
    return max(1.0, job.num_sequences * job.new_tokens / job.num_devices / job.num_descents / responses)


def _scoring(shape: Shape, job: Job) -> dict[str, float]:
    """Logits and log-probabilities of a pass; a layer's tensors, of which no other layer's are alive."""
    tokens, responses = tokens_of_a_pass(replace(job, num_descents=1))
    return {
        "activations": FLOAT * tokens * (4 * shape.hidden_size + 2 * shape.ffn_size),
        "logits": (4 if job.exact_kl else 2) * FLOAT * shape.vocab_size * responses,
    }


def kept_of_a_token(shape: Shape, length: int) -> int:
    """Numbers that a layer keeps for the backward pass, as torch's saved-tensor hooks count them: GPT-2's 16 widths."""
    widths = 6 * shape.hidden_size + 2 * shape.kv_size + 2 * shape.ffn_size
    if shape.is_gated:  # one more product, norms of their own, queries and keys before they are turned
        widths += 2 * shape.ffn_size + 3 * shape.hidden_size + shape.kv_size
    probabilities = shape.num_heads * length if length <= 128 else 0  # longer ones are computed again
    return widths + probabilities


def _update(shape: Shape, job: Job) -> dict[str, float]:
    """What the backward pass reads."""
    tokens, responses = tokens_of_a_pass(job)
    return {
        "activations": tokens * _kept(shape, job) * (2 if job.has_value_network else 1),
        "logits": (3 if job.exact_kl else 2) * FLOAT * shape.vocab_size * responses,
    }


def _backward(shape: Shape, job: Job, of_gradients: float) -> dict[str, float]:
    """Where it has come from the responses to their prompts: gradients of the former wait in whole for the latter's."""
    tokens, responses = tokens_of_a_pass(job)
    are_others = job.zero_stage > 1 or passes(job) > 1  # than the gradients that stay
    return {
        "gradients of the responses": of_gradients if are_others else 0,
        "activations": (tokens - responses) * _kept(shape, job),
    }


def _kept(shape: Shape, job: Job) -> float:
    """Bytes of a token."""
    return NUM_BYTES[job.precision] * shape.num_layers * kept_of_a_token(shape, job.prompt_tokens + job.new_tokens)
