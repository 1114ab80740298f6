from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from triplex.models.huggingface import HuggingFaceLM
from triplex.models.places import response_states
from triplex.runs.errors import InputError

PROMPTS = [[7, 8, 9, 10, 11], [12], [20, 21, 22]]
SIZE = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 1,
}  # fmt: skip
MODELS = {
    "gpt2": ("gpt2", {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "llama": ("llama", SIZE),
    "mistral, window of 6": ("mistral", SIZE | {"sliding_window": 6}),
    "qwen2": ("qwen2", SIZE),
    "qwen2, window of 4 in one layer": (
        "qwen2",
        SIZE | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", SIZE),
    "gemma2, soft cap and windows": ("gemma2", SIZE | {"sliding_window": 5, "final_logit_softcapping": 0.5}),
    "cohere, scaled logits": ("cohere", SIZE | {"logit_scale": 0.3}),
}


def build(name: str, seed: int = 0, **changes: Any) -> Any:
    kind, size = MODELS[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **size, **changes)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data.mul_(5)  # so that what a token sees matters
    return model


def padded(rows: list[list[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    pads = [[5] * (width - len(row)) for row in rows]
    ids = [pad + row if left else row + pad for row, pad in zip(rows, pads, strict=True)]
    places = torch.arange(width).expand(len(rows), width)
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    return torch.tensor(ids), places >= width - lengths if left else places < lengths


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_states_and_logits_are_the_models_own(name: str, left: bool, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    """Of each row alone, whatever side its padding is on."""
    model = build(name)
    lm = HuggingFaceLM(model, tiny_tokenizer)
    rows = [[*range(30, 42)], [12, 300, 4], [20, 21, 22, 23, 24, 25, 26, 27]]
    ids, mask = padded(rows, left=left)
    with torch.no_grad():
        states = lm.states(ids, mask)
        assert states.shape == (3, 12, 32) == (3, 12, lm.hidden_size)
        for row, tokens in enumerate(rows):
            alone = model(input_ids=torch.tensor([tokens]), output_hidden_states=True)
            torch.testing.assert_close(states[row][mask[row]], alone.hidden_states[-1][0], atol=2e-5, rtol=1e-5)
            assert torch.equal(lm.logits(alone.hidden_states[-1][0]), alone.logits[0])


def responses_to(prompts: list[list[int]], lengths: list[list[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(prompt_ids, prompt_mask, response_ids, response_mask): as many responses to each prompt as it has lengths."""
    rows = [prompt for prompt, each in zip(prompts, lengths, strict=True) for _ in each]
    texts = [[(7 * i + 3 * j) % 300 for j in range(n)] for i, n in enumerate(n for each in lengths for n in each)]
    return *padded(rows, left=True), *padded(texts, left=False)


@pytest.mark.parametrize("longest", [7, 1])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_a_prompt_of_several_responses_is_read_once(
    name: str, attention: str, longest: int, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """States and gradients are those of each response read with its own prompt; an empty response has no place."""
    lengths = [[min(n, longest) for n in each] for each in ([7, 3, 1, 5], [2, 0, 7, 7], [4, 6, 1, 1])]
    tokens = responses_to(PROMPTS, lengths)
    found = []
    for once in (True, False):
        model = build(name, attn_implementation=attention)
        lm = HuggingFaceLM(model, tiny_tokenizer)
        assert lm.reads_prompts_once
        read: list[int] = []
        model.get_input_embeddings().register_forward_hook(lambda _, ids, __, read=read: read.append(ids[0].numel()))
        states = response_states(lm, *tokens, shares_prompts=once)
        assert read == ([3 * 5, 12 * max(1, longest - 1)] if once else [12 * (5 + longest - 1)])
        (states * torch.arange(states.numel()).view_as(states).remainder(7)).sum().backward()
        found.append([states.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for once, alone in zip(*found, strict=True):
        torch.testing.assert_close(once, alone, atol=2e-5 * alone.abs().max().item(), rtol=1e-5)


def test_prompts_of_their_own_are_read_without_padding(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    lm = HuggingFaceLM(build("gpt2"), tiny_tokenizer)
    lm.branch_states = None  # type: ignore[assignment, method-assign]  # it would be called in vain
    assert response_states(lm, *responses_to(PROMPTS, [[3], [4], [2]])).shape == (9, 32)


def test_a_soft_cap_stays_on_the_logits_and_off_the_states(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    lm = HuggingFaceLM(build("gemma2, soft cap and windows"), tiny_tokenizer)
    states = lm.states(*padded(PROMPTS, left=True)).flatten(0, 1)
    logits = lm.logits(states)
    assert 0.3 < logits.abs().max().item() < 0.5
    assert states.abs().max().item() > 1
    assert lm.model.base_model is lm.model.model  # the trunk is back in its place
    logits.sum().backward()
    assert lm.model.model.layers[0].mlp.up_proj.weight.grad.abs().sum().item() > 0


def slow_states(model: Any, rows: list[list[int]]) -> Tensor:
    """The state after each row, without batch, padding or cache."""
    found = [model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1][0, -1] for row in rows]
    return torch.stack(found)


@pytest.mark.parametrize("prompts", [PROMPTS, [[7, 8, 9], [12, 13, 14]]], ids=["padded", "not padded"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_decoding_is_reading(
    name: str, attention: str, prompts: list[list[int]], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The states of every step are those of the whole text read at once, past windows and after rows have left."""
    model = build(name, attn_implementation=attention)
    decoder = HuggingFaceLM(model, tiny_tokenizer).decoder(*padded(prompts, left=True), 2, 10)
    texts = [list(prompt) for prompt in prompts for _ in range(2)]
    states = decoder.prefill()
    generator = torch.Generator().manual_seed(3)
    for t in range(10):
        torch.testing.assert_close(states, slow_states(model, texts), atol=1e-4, rtol=1e-4)
        tokens = torch.randint(2, 320, (len(texts),), generator=generator)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
        if t in (2, 5):  # first some of each length, then all but the longest, which are not padded
            rows = torch.tensor([0, 1, 3] if t == 2 else [0, 1])
            decoder.keep(rows)
            texts, tokens = [texts[row] for row in rows], tokens[rows]
        states = decoder.step(tokens)


@torch.no_grad()
def test_decoding_in_bfloat16(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("gpt2", "llama", "mistral, window of 6", "qwen3"):
        model = build(name).to(torch.bfloat16)
        decoder = HuggingFaceLM(model, tiny_tokenizer).decoder(*padded(PROMPTS, left=True), 1, 4)
        texts = [list(prompt) for prompt in PROMPTS]
        states = decoder.prefill()
        for token in (100, 200, 300):
            states = decoder.step(torch.full((3,), token))
            texts = [[*text, token] for text in texts]
        assert states.dtype == torch.bfloat16
        wanted = slow_states(model, texts).float()
        assert (states.float() - wanted).norm().item() < 0.05 * wanted.norm().item(), name


def test_ends_and_limits_are_those_of_model_and_tokenizer(
    tiny_lm: Callable[..., Any], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_lm()
    model.generation_config.eos_token_id = [7, 5]
    lm = HuggingFaceLM(model, tiny_tokenizer)
    assert lm.eos_ids == (0, 5, 7)
    assert (lm.max_positions, lm.hidden_size) == (64, 32)
    assert list(lm.state_dict()) == [f"model.{name}" for name in model.state_dict()]


@pytest.mark.parametrize("name", ["gpt2", "gemma2, soft cap and windows"])
def test_adapters_are_gone_through_and_switched_off(name: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    plain = HuggingFaceLM(build(name), tiny_tokenizer)
    adapters = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=name == "gpt2")
    model = get_peft_model(build(name), adapters)
    lm = HuggingFaceLM(model, tiny_tokenizer)
    tokens = padded(PROMPTS, left=True)
    with lm.adapter_off():
        assert torch.equal(lm.states(*tokens), plain.states(*tokens))
    states = lm.states(*tokens)
    assert (states - plain.states(*tokens)).abs().max().item() > 1e-2
    wanted = model(input_ids=tokens[0][:1]).logits[0]
    assert torch.equal(lm.logits(lm.states(tokens[0][:1], tokens[1][:1])[0]), wanted)
    lm.logits(states.flatten(0, 1)).sum().backward()
    learnt = {key for key, value in lm.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0}
    assert learnt
    assert all("lora_" in key for key in learnt)
    with torch.no_grad():
        decoder = lm.decoder(*tokens, 1, 2)
        torch.testing.assert_close(decoder.prefill(), states[:, -1], atol=1e-4, rtol=1e-4)


def test_without_adapters_there_is_nothing_to_switch_off(
    tiny_lm: Callable[..., Any], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(InputError, match=r"has no adapters to switch off"):
        HuggingFaceLM(tiny_lm(), tiny_tokenizer).adapter_off()


def test_a_model_that_does_not_only_attend_is_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = build("llama")
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(InputError, match=r"LlamaForCausalLM has layers of kind \['linear_attention'\]"):
        HuggingFaceLM(model, tiny_tokenizer).decoder(*padded(PROMPTS, left=True), 1, 2)


def test_logits_that_are_no_function_of_the_states_are_refused(
    tiny_lm: Callable[..., Any], tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_lm()
    forward = type(model).forward

    def uneven(self: Any, input_ids: Tensor, **inputs: Any) -> Any:
        output = forward(self, input_ids, **inputs)
        output.logits = output.logits + input_ids[..., None]
        return output

    monkeypatch.setattr(type(model), "forward", uneven)
    with pytest.raises(InputError, match=r"GPT2LMHeadModel are no function of its trunk's last state"):
        HuggingFaceLM(model, tiny_tokenizer)
