"""What `pipelines plan` expects, against models that are there and tensors that torch keeps."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from pipelines.__main__ import app
from pipelines.devices import DEVICES, Device, _fetched_in_a_pass, step_time
from pipelines.plan import largest_that_fits
from pipelines.sizing import MODELS, Job, Memory, Shape, _update, find_shape, memory, of_size, shape_of
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.policy import Policy
from triplex.runs.errors import InputError

CONFIGS = {
    "gpt2": {"n_layer": 3, "n_embd": 128, "n_head": 4, "vocab_size": 300, "n_positions": 64},
    "llama": {
        "num_hidden_layers": 3, "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 352, "vocab_size": 300, "max_position_embeddings": 64,
    },
    "mistral": {
        "num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": 2,
        "intermediate_size": 256, "vocab_size": 500, "max_position_embeddings": 64, "sliding_window": None,
    },
}  # fmt: skip


def config(name: str) -> Any:
    return AutoConfig.for_model(name, **CONFIGS[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_model_but_for_biases_and_norms(name: str) -> None:
    model = AutoModelForCausalLM.from_config(config(name))
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert shape_of(config(name).to_dict()).num_parameters == matrices


@pytest.mark.parametrize(
    ("name", "published"),
    [("gpt2", 124.4e6), ("gpt2-xl", 1557.6e6), ("llama-3-8b", 8.03e9), ("llama-3-70b", 70.55e9), ("mistral-7b", 7.25e9),
     ("qwen2.5-0.5b", 494e6), ("qwen2.5-7b", 7.62e9)],
)  # fmt: skip
def test_known_models_have_their_published_size(name: str, published: float) -> None:
    assert MODELS[name].num_parameters == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_activations_are_what_torch_keeps_for_the_backward_pass(name: str, tiny_tokenizer: Any) -> None:
    """Every tensor that autograd saves in a pass of the policy, each storage once, without weights and logits."""
    policy = Policy(HuggingFaceLM(AutoModelForCausalLM.from_config(config(name)).eval(), tiny_tokenizer), None)
    weights = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows, job = 16, Job(num_sequences=16, prompt_tokens=8, new_tokens=24)
    ids, mask = torch.randint(5, 300, (rows, 32)), torch.ones(rows, 32, dtype=torch.bool)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = policy(ids[:, :8], mask[:, :8], ids[:, 8:], mask[:, 8:], 1.0, entropy_grad=False)
    distribution = 4 * 300 * rows * 24
    found = _update(shape_of(config(name).to_dict()), job)
    assert outputs.logprobs.requires_grad
    assert found["activations"] == pytest.approx(sum(kept.values()) - distribution, rel=0.1)
    assert found["logits"] == 2 * distribution


def test_zero_divides_what_it_says() -> None:
    shape, bytes_of = MODELS["gpt2"], 4 * MODELS["gpt2"].num_parameters
    stays = [memory(shape, Job(num_devices=4, zero_stage=stage)).stays for stage in range(4)]
    assert [each["optimiser"] / bytes_of for each in stays] == [2, 0.5, 0.5, 0.5]
    assert [each["gradients"] / bytes_of for each in stays] == [1, 1, 0.25, 0.25]
    assert [each["weights"] / bytes_of for each in stays] == [1, 1, 1, 0.25]
    assert [each["reference"] / bytes_of for each in stays] == [1, 1, 1, 0.25]


def test_adapters_need_no_reference_and_little_that_learns() -> None:
    found = memory(MODELS["llama-3-8b"], Job(lora_rank=16, is_four_bit=True, precision="bfloat16"))
    assert found.stays["reference"] == 0
    assert found.stays["optimiser"] < 0.01 * found.stays["weights"] * 8
    assert found.stays["weights"] == pytest.approx(5.9e9, rel=0.05)  # 4.1 bits of 7 billion, 16 of a billion, adapters


def test_adapters_are_counted_as_peft_counts_them(tiny_lm: Callable[..., Any]) -> None:
    from triplex.models.lora import with_adapters
    from triplex.models.optim import LoraConfig

    for name in CONFIGS:
        wrapped = with_adapters(AutoModelForCausalLM.from_config(config(name)), LoraConfig(rank=4, alpha=8))
        count = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        expected = shape_of(config(name).to_dict()).num_adapter(4)
        assert count == (expected - _split_of_gpt2(4) if name == "gpt2" else expected)


def _split_of_gpt2(rank: int) -> int:
    """Queries, keys and values are one matrix there, with one adapter on its input."""
    return rank * 3 * 2 * 128


@pytest.mark.parametrize("size", [1e8, 7e9, 70e9])
def test_a_size_is_met_from_above(size: float) -> None:
    assert size <= of_size(size).num_parameters < 1.35 * size


def test_the_largest_is_the_last_that_fits() -> None:
    def of(n: int) -> Memory:
        return Memory({"weights": 10.0}, {"update": {"logits": 3.0 * n}})

    assert largest_that_fits(of, 100.0) == 30
    assert largest_that_fits(of, 10.0) == 0
    assert largest_that_fits(of, 9.0) == 0


def test_more_devices_take_no_longer_but_for_their_links() -> None:
    shape, job = MODELS["gpt2-xl"], Job(num_sequences=512, precision="bfloat16")
    one, eight = (step_time(shape, replace(job, num_devices=n), DEVICES["h100"]) for n in (1, 8))
    assert one.links == 0 < eight.links
    assert one.update / 8 < eight.update < one.update / 4  # each takes in all weights, and descends on all of them
    assert eight.rollout <= one.rollout


def test_seconds_by_hand() -> None:
    """One layer, 2 wide, 8 inside, 10 words: 48 weights in matrices, 20 in the head; one response of 2 tokens to 1."""
    shape, job = Shape(1, 2, 1, 1, 8, 10, False, True, 3), Job(num_sequences=1, prompt_tokens=1, new_tokens=2)
    device = Device(1e9, {"float32": 1.0, "bfloat16": 1.0}, math.inf, math.inf, 1.0, 1.0, 0.0)
    forward = 2 * 48 * 3 + 4 * 2 * 3 * 3 + 2 * 20 * 2  # matrices, attention to 3 keys, logits of 2 tokens
    found = step_time(shape, job, device)
    assert (found.score, found.update, found.links) == (forward, 3 * forward, 0)
    assert found.rollout == 2 * 48 + 4 * 2 + 2 * (2 * 48 + 4 * 2 * 2 + 2 * 20)  # the prompt, and two tokens to 2 keys
    assert step_time(shape, job, device._replace(flops={"float32": math.inf}, layer=1.0)).total == 3 + 1 + 3
    only_weights = step_time(shape, job, device._replace(flops={"float32": math.inf}, weights=1.0))
    assert only_weights.score == 4 * (48 + 20)
    assert only_weights.rollout == 4 * (3 * (48 + 20) + 2 * 2 * 2 * 2)  # beside keys and values of 2 tokens, twice
    two = replace(job, num_devices=2, num_sequences=2)
    assert step_time(shape, two, device).links == 4 * (48 + 20 + 3 * 2)  # half of the gradients, and half of their sum
    moving = device._replace(bandwidth=1.0)
    alone, beside = step_time(shape, job, moving), step_time(shape, two, moving)
    assert beside.update - alone.update == 4 * 4 * (48 + 20 + 3 * 2)  # gradients, into one message and out of it
    zero = [step_time(shape, replace(two, zero_stage=stage), device).links for stage in (1, 2, 3)]
    half = 2 * (48 + 20 + 3 * 2)  # bytes of half of the gradients, the weights or the reference
    assert zero == [3 * half, 3 * half, 5 * half]  # gradients, weights for a pass, sampling and scoring, the reference
    copied = [step_time(shape, replace(two, zero_stage=stage), moving).update - alone.update for stage in (1, 2, 3)]
    assert copied == [4 * (18 * 37 + 2 * 74 + 2 * 37 - 10 * 74)] * 2 + [
        4 * (18 * 37 + 4 * 74 + 2 * 37 + 4 * 74 - 10 * 74)
    ]
    third = replace(two, zero_stage=3)
    over_gloo = step_time(shape, third, moving._replace(has_reduce_scatter=False))
    assert over_gloo.links - step_time(shape, third, moving).links == half
    assert over_gloo.update - step_time(shape, third, moving).update == 4 * (2 * 74 + 2 * 37)
    passes = replace(two, num_sequences=4, tokens_per_pass=3)  # two a device, after each of which stage 2 adds up
    first, second = (step_time(shape, replace(passes, zero_stage=stage), moving) for stage in (1, 2))
    assert second.links - first.links == 2 * 148
    assert second.update - first.update == 4 * (2 * 74 + 2 * 37 + 3 * 37)
    adapted = step_time(shape, replace(job, lora_rank=1), device)  # by 36 weights
    assert (adapted.score, adapted.update) == (forward, 2 * (forward + 2 * 36 * 3))  # no gradient of the 48
    starts = step_time(shape, replace(job, lora_rank=1), device._replace(flops={"float32": math.inf}, layer=1.0))
    assert starts.score == 1 < 3 < starts.update == starts.rollout  # for gradients a layer is started twice more


def test_layers_that_come_again_soon_are_fetched_once() -> None:
    job, small, large = Job(num_devices=2, zero_stage=3), MODELS["gpt2"], MODELS["llama-3-8b"]
    group = replace(job, group_size=8)
    assert _fetched_in_a_pass(small, job) == _fetched_in_a_pass(small, group) == small.num_parameters
    assert _fetched_in_a_pass(large, job) == 2 * large.num_parameters - 0.5e9
    assert _fetched_in_a_pass(large, group) == 4 * large.num_parameters - 0.5e9


def test_gradients_of_responses_wait_for_those_of_their_prompts() -> None:
    shape = MODELS["llama-3-8b"]
    found = memory(shape, Job(num_devices=8, zero_stage=3, group_size=8)).phases["prompts' backward"]
    assert found["gradients of the responses"] == 4 * shape.num_parameters
    assert "prompts' backward" not in memory(shape, Job(num_devices=8, zero_stage=3)).phases


def test_the_command_tells_what_fits_and_a_script_reads_it() -> None:
    run = CliRunner().invoke(app, ["plan", "--model", "gpt2", "--json"])
    told = json.loads(run.stdout)
    assert told["parameters"] == MODELS["gpt2"].num_parameters
    assert told["peak"] < told["room"]
    assert told["largest"]["batch_size"] >= 256
    shown = CliRunner().invoke(app, ["plan", "--model", "70B"])
    assert "does not fit" in shown.stdout
    assert "would fit with\n  --gpus 64 --zero-stage 3 --lora-rank 16 --four-bit\n" in shown.stdout
    shown = CliRunner().invoke(app, ["plan", "--model", "llama-3-8b", "--gpus", "8"])
    assert "would fit with any one of\n  --gpus 32 --zero-stage 3\n  --zero-stage 3 --lora-rank 16\n" in shown.stdout
    assert "rollout" in shown.stdout


@pytest.mark.parametrize(
    ("options", "ways"),
    [
        ("--model llama-3-8b --gpus 8 --zero-stage 3", ["--batch-size", "--tokens-per-pass", "--gpus", "--lora-rank"]),
        ("--model llama-3-8b", ["--gpus", "--gpus", "--lora-rank"]),
        ("--model 70B", ["--gpus"]),
        ("--model 70B --device rtx4090", []),
    ],
)
def test_what_is_said_to_fit_fits(options: str, ways: list[str]) -> None:
    def told(*words: str) -> Any:
        return json.loads(CliRunner().invoke(app, ["plan", *words, "--json"]).stdout)

    found = told(*options.split())["would_fit"]
    assert [way.split()[0] for way in found] == ways
    for way in found:
        fitting = told(*options.split(), *way.split())
        assert fitting["peak"] <= fitting["room"]
        assert fitting["would_fit"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "lama-3-8b"], "did you mean 'llama-3-8b'"),
        (["--model", "13X"], "no size such as"),
        (["--model", "gpt2", "--device", "h10"], "did you mean 'h100'"),
        (["--model", "gpt2", "--four-bit"], "add --lora-rank"),
    ],
)
def test_mistakes_are_told_in_words(options: list[str], message: str) -> None:
    run = CliRunner().invoke(app, ["plan", *options])
    assert isinstance(run.exception, InputError)
    assert message in str(run.exception)


def test_a_folder_is_a_model(tmp_path: Any) -> None:
    config("llama").save_pretrained(tmp_path)
    assert find_shape(str(tmp_path)) == Shape(3, 128, 4, 2, 352, 300)
