import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from triplex.models.loading import load_causal_lm, load_classifier
from triplex.models.lora import with_adapters
from triplex.models.optim import LoraConfig
from triplex.models.saving import ADAPTER, num_parameters, save_model
from triplex.runs.files import sha256_tree

ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen3")
IDS = torch.arange(2, 12)[None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folder_loads_with_auto_classes(
    tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any, architecture: str
) -> None:
    model = tiny_lm(architecture=architecture)
    save_model(tmp_path / "m", model, tiny_tokenizer)
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(info.values())
    assert loaded.config.use_cache
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    text = "The lamp is bright. 👍"
    assert AutoTokenizer.from_pretrained(tmp_path / "m")(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]


def test_equal_models_make_equal_bytes(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    save_model(tmp_path / "one" / "m", tiny_lm(seed=1), tiny_tokenizer)
    save_model(tmp_path / "two" / "elsewhere" / "n", tiny_lm(seed=1), tiny_tokenizer)
    save_model(tmp_path / "m", tiny_lm(seed=2), tiny_tokenizer)
    assert sha256_tree(tmp_path / "one" / "m") == sha256_tree(tmp_path / "two" / "elsewhere" / "n")
    assert sha256_tree(tmp_path / "one" / "m") != sha256_tree(tmp_path / "m")


def test_saving_again_what_was_loaded_changes_no_byte(
    tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    """Where a model came from is no part of it."""
    save_model(tmp_path / "a", tiny_lm(), tiny_tokenizer)
    save_model(tmp_path / "deeper" / "b", *load_causal_lm(tmp_path / "a"))
    save_model(tmp_path / "c", *load_causal_lm(tmp_path / "deeper" / "b"))
    assert sha256_tree(tmp_path / "deeper" / "b") == sha256_tree(tmp_path / "c")


def test_folder_holds_nothing_of_this_run(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    save_model(tmp_path / "a", tiny_lm(), tiny_tokenizer)
    save_model(tmp_path / "b", *load_causal_lm(tmp_path / "a"))
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        ]  # fmt: skip
        for path in folder.iterdir():
            assert str(tmp_path).encode() not in path.read_bytes()


def test_saving_replaces_the_whole_folder(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old.bin").write_text("old")
    save_model(tmp_path / "m", tiny_lm(), tiny_tokenizer)
    assert not (tmp_path / "m" / "old.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failed_save_leaves_the_old_folder(tmp_path: Path, tiny_lm: Callable[..., Any]) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old.bin").write_text("old")
    with pytest.raises(AttributeError):
        save_model(tmp_path / "m", tiny_lm(), tokenizer=None)
    assert (tmp_path / "m" / "old.bin").read_text() == "old"


def test_config_has_the_pad_token(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    save_model(tmp_path / "m", tiny_lm(), tiny_tokenizer)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"], config["architectures"]) == (0, 1, ["GPT2LMHeadModel"])


def test_tied_parameters_count_once(tiny_lm: Callable[..., Any]) -> None:
    model = tiny_lm()
    vocabulary, width, positions, layers = model.config.vocab_size, 32, 64, 2
    attention = width * 3 * width + 3 * width + width * width + width
    feed_forward = width * 4 * width + 4 * width + 4 * width * width + width
    norms = 4 * width
    expected = (vocabulary + positions) * width + layers * (attention + feed_forward + norms) + 2 * width
    assert num_parameters(model) == expected


def test_the_generation_config_says_how_the_run_sampled(
    tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    """Whatever the model's own said of top-k and the like, of which only the ends of text are kept."""
    model = tiny_lm()
    model.generation_config = GenerationConfig(eos_token_id=[0, 5], top_k=50, repetition_penalty=1.2, do_sample=False)
    save_model(tmp_path / "m", model, tiny_tokenizer, temperature=0.7, max_new_tokens=12)
    found = GenerationConfig.from_pretrained(tmp_path / "m")
    assert (found.eos_token_id, found.pad_token_id) == ([0, 5], 1)
    assert (found.do_sample, found.temperature, found.top_k, found.top_p) == (True, 0.7, 0, 1.0)
    assert found.max_new_tokens == 12
    assert not found.repetition_penalty


def test_a_classifier_loads_and_generates_nothing(
    tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    save_model(tmp_path / "base", tiny_lm(), tiny_tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=2)
    save_model(tmp_path / "m", model, tiny_tokenizer)
    assert torch.equal(load_classifier(tmp_path / "m")[0](IDS).logits, model.eval()(IDS).logits)
    assert not (tmp_path / "m" / "generation_config.json").exists()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_adapters_load_in_peft_and_are_what_was_merged(
    tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any, architecture: str
) -> None:
    save_model(tmp_path / "sft", tiny_lm(architecture=architecture), tiny_tokenizer)
    base, _ = load_causal_lm(tmp_path / "sft")
    policy = with_adapters(base, LoraConfig(rank=4, alpha=8))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1)
        wanted = policy(IDS).logits
    save_model(tmp_path / "ppo", policy, tiny_tokenizer)
    adapter = tmp_path / "ppo" / ADAPTER
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    modules = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    assert len(modules) > 3
    assert modules == sorted(modules)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "sft"), adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "ppo")
    with torch.no_grad():
        assert not torch.allclose(merged(IDS).logits, load_causal_lm(tmp_path / "sft")[0](IDS).logits, atol=1e-3)
        torch.testing.assert_close(adapted(IDS).logits, wanted)
        torch.testing.assert_close(merged(IDS).logits, wanted, rtol=0, atol=1e-4)
