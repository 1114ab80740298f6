from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from triplex.models.scratch import ScratchConfig, build_causal_lm, train_tokenizer

ARCHITECTURES = ("gpt2", "llama", "mistral", "qwen3")
TEXTS = ["The tea kettle boils fast.", "I like this lamp; it was cheap!"] * 5
#: any text that UTF-8 can hold: all of Unicode but lone surrogates
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def config(**values: Any) -> ScratchConfig:
    size = {"vocab_size": 320, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_positions": 64}
    return ScratchConfig(**{"kind": "scratch", "architecture": "gpt2"} | size | values)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, vocab_size=320, max_positions=64)


@settings(deadline=None, max_examples=300)
@given(any_text)
@example("👩‍👩‍👧 🇩🇪 👍🏽")
@example("مرحبا بالعالم \u202e\u2067")
@example("价格很好，我喜欢。")
@example("a\r\n\tb\x00\x07\x1b[0m\x7f\u2028\ufeff")
@example("  two  spaces , and an odd 'apostrophe 's .  ")
@example("e\u0301 \u1e9b\u0323 ﬁ Å")
def test_any_text_survives_the_round_trip(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids[1:]) == text


@settings(deadline=None)
@given(any_text)
def test_each_text_is_encoded_with_end_of_text_in_front(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0
    assert ids[1:] == tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(deadline=None)
@given(
    st.lists(st.text("abcthe", min_size=1, max_size=6), min_size=1, max_size=5).map(" ".join),
    st.lists(st.text("abcthe.,!", min_size=1, max_size=6), min_size=1, max_size=5).map(" ".join),
)
def test_prompt_and_completion_apart_are_the_tokens_of_the_whole(tokenizer: Any, prompt: str, rest: str) -> None:
    completion = f" {rest}"
    apart = tokenizer(prompt)["input_ids"] + tokenizer(completion, add_special_tokens=False)["input_ids"]
    assert apart == tokenizer(prompt + completion)["input_ids"]


@settings(deadline=None)
@given(any_text)
def test_offsets_cover_the_text(tokenizer: Any, text: str) -> None:
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    covered = {i for start, end in encoded["offset_mapping"] for i in range(start, end)}
    assert covered == set(range(len(text)))


def test_special_tokens(tokenizer: Any) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 1)
    assert tokenizer.padding_side == "left"
    assert tokenizer.model_max_length == 64


def test_common_words_become_one_token(tokenizer: Any) -> None:
    assert tokenizer.tokenize("The tea kettle") == ["The", "Ġtea", "Ġkettle"]


def test_equal_texts_make_equal_tokenizers(tokenizer: Any) -> None:
    again = train_tokenizer(TEXTS, vocab_size=320, max_positions=64)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_vocabulary_is_no_larger_than_asked_for(tokenizer: Any) -> None:
    small = train_tokenizer(TEXTS, vocab_size=270, max_positions=64)
    assert len(small) == 270
    assert 270 < len(tokenizer) <= 320


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_model_has_the_size_asked_for(tokenizer: Any, architecture: str) -> None:
    model = build_causal_lm(config(architecture=architecture), tokenizer)
    assert model.config.model_type == architecture
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 32)
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (2, 2)
    assert model.config.max_position_embeddings == 64
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 0, 1)
    assert model.generation_config.eos_token_id == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_and_evaluation_mode_agree(tiny_lm: Callable[..., Any], architecture: str) -> None:
    """Without dropout the two modes are one function."""
    model, ids = tiny_lm(architecture=architecture), torch.arange(2, 22)[None]
    with torch.no_grad():
        assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)


def test_torchs_seed_decides_the_weights(tokenizer: Any) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_causal_lm(config(), tokenizer).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("hidden_size", "num_heads"), [(24, 3), (48, 6), (16, 8)])
def test_every_accepted_size_makes_a_model(tokenizer: Any, architecture: str, hidden_size: int, num_heads: int) -> None:
    size = config(architecture=architecture, hidden_size=hidden_size, num_heads=num_heads, num_layers=1)
    assert build_causal_lm(size, tokenizer)(torch.tensor([[0, 5, 6]])).logits.shape == (1, 3, len(tokenizer))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"hidden_size": 32, "num_heads": 5}, "no multiple of 2 \\* num_heads = 10", id="bad-40-heads"),
        pytest.param({"hidden_size": 24, "num_heads": 8}, "no multiple of 2 \\* num_heads = 16", id="bad-40-odd-heads"),
        pytest.param({"hidden_size": 20}, "multiple of 8", id="bad-40-hidden"),
        pytest.param({"architecture": "bert"}, "'gpt2', 'llama', 'mistral' or 'qwen3'", id="bad-40-architecture"),
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**values)
