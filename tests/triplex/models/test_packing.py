import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from triplex.models.packing import IGNORED, Example, check_packing, collate, encode_example, pack
from triplex.runs.errors import InputError

PAD, VOCAB = 1, 100

SIZE = {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": SIZE,
    "mistral": SIZE | {"sliding_window": 8},
    "qwen3": SIZE,
    "bloom": {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "opt": SIZE | {"ffn_dim": 64, "word_embed_proj_dim": 32},
}


def build(name: str, implementation: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **MODELS[name], bos_token_id=0, eos_token_id=0, pad_token_id=PAD)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    for parameter in model.parameters():  # far from the start, where attention hardly matters
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def examples(*sizes: tuple[int, int]) -> list[Example]:
    """Random examples of (tokens, prompt tokens)."""
    generator = torch.Generator().manual_seed(1)
    return [Example(torch.randint(2, VOCAB, (num,), generator=generator).tolist(), prompt) for num, prompt in sizes]


@st.composite
def drawn_examples(draw: st.DrawFn) -> list[Example]:
    lengths = draw(st.lists(st.integers(1, 20), max_size=30))
    return [
        Example([2 + (i + j) % (VOCAB - 2) for j in range(length)], draw(st.integers(0, length)))
        for i, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen3"])
def test_packed_loss_is_the_token_weighted_loss_of_each_example_alone(name: str, implementation: str) -> None:
    model = build(name, implementation)
    rows = examples((9, 3), (7, 0), (12, 5), (3, 2), (20, 4), (15, 14))
    blocks = pack(rows, 32)
    assert max(map(len, blocks)) > 1
    with torch.no_grad():
        packed = model(**collate(blocks, 32, PAD), use_cache=False).loss.item()
        total, count = 0.0, 0
        for ids, num_prompt in rows:
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            first = max(num_prompt, 1)
            loss = functional.cross_entropy(logits[first - 1 : -1], torch.tensor(ids[first:]), reduction="sum")
            total, count = total + loss.item(), count + len(ids) - first
    assert packed == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen3"])
def test_check_packing_takes_what_keeps_examples_apart(name: str) -> None:
    check_packing(build(name, "sdpa"))


@pytest.mark.parametrize("name", ["bloom", "opt"])
def test_check_packing_refuses_what_does_not(name: str) -> None:
    with pytest.raises(InputError, match="cannot be trained on packed examples"):
        check_packing(build(name, "eager"))


def test_packed_gradient_is_the_mean_of_the_examples_gradients(tiny_lm: Callable[..., Any]) -> None:
    rows = examples((9, 3), (7, 2), (12, 5))
    packed, apart = tiny_lm(), tiny_lm()
    packed(**collate(pack(rows, 32), 32, PAD), use_cache=False).loss.backward()
    sum_of_losses = sum(
        apart(**collate([[row]], 32, PAD), use_cache=False).loss * (len(row.ids) - row.num_prompt) for row in rows
    )
    (sum_of_losses / (6 + 5 + 7)).backward()
    for one, other in zip(packed.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-6)


def test_blocks_by_hand() -> None:
    a, b, c, d, e = examples((5, 0), (3, 0), (4, 0), (2, 0), (3, 0))
    # longest first: a opens a block (3 free), c another (4 free), b fits best beside a (full), e beside c (1 free),
    # d opens a third
    assert pack([a, b, c, d, e], 8) == [[a, b], [c, e], [d]]


@settings(deadline=None)
@given(drawn_examples(), st.integers(8, 24))
def test_every_example_is_in_exactly_one_block(rows: list[Example], block_size: int) -> None:
    blocks = pack(rows, block_size)
    assert sorted(e for block in blocks for e in block) == sorted(
        Example(r.ids[:block_size], r.num_prompt) for r in rows
    )
    assert all(0 < sum(len(e.ids) for e in block) <= block_size for block in blocks)


@settings(deadline=None)
@given(drawn_examples(), st.integers(8, 24))
def test_best_fit_is_near_the_fewest_blocks(rows: list[Example], block_size: int) -> None:
    lengths = [min(len(r.ids), block_size) for r in rows]
    at_least = math.ceil(sum(lengths) / block_size)
    blocks = pack(rows, block_size)
    assert at_least <= len(blocks) <= max(at_least, 2 * at_least - 1)
    # no two blocks would fit into one: best fit opens a block only when nothing has room
    tokens = sorted(sum(len(e.ids) for e in block) for block in blocks)
    assert len(tokens) < 2 or tokens[0] + tokens[1] > block_size


def test_collate_by_hand() -> None:
    batch = collate([[Example([5, 6, 7, 8], 2), Example([9, 2], 0)], [Example([4], 0)]], 8, PAD)
    x = IGNORED
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 2, 1, 1], [4, 1, 1, 1, 1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6]]
    assert batch["labels"].tolist() == [[x, x, 7, 8, x, 2, x, x], [x] * 8]


@settings(deadline=None)
@given(drawn_examples(), st.integers(8, 24))
def test_labels_are_the_completions_tokens(rows: list[Example], block_size: int) -> None:
    blocks = pack(rows, block_size)
    batch = collate(blocks, block_size, PAD)
    learned = batch["labels"] != IGNORED
    assert batch["input_ids"].shape == batch["position_ids"].shape == (len(blocks), block_size)
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    assert not learned[batch["position_ids"] == 0].any()
    expected = sum(max(0, min(len(r.ids), block_size) - max(r.num_prompt, 1)) for r in rows)
    assert int(learned.sum()) == expected


def test_bad_55_an_end_of_text_that_is_also_the_pad_token_is_still_learned() -> None:
    end = 0
    batch = collate([[Example([5, 6, end], 1)]], 5, pad_token_id=end)
    assert batch["labels"].tolist() == [[IGNORED, 6, end, IGNORED, IGNORED]]


def test_encode_example(tiny_tokenizer: Any) -> None:
    example = encode_example(tiny_tokenizer, "The lamp", " is bright.")
    front, end = tiny_tokenizer.bos_token_id, tiny_tokenizer.eos_token_id
    assert (example.ids[0], example.ids[-1]) == (front, end)
    assert tiny_tokenizer.decode(example.ids[1 : example.num_prompt]) == "The lamp"
    assert tiny_tokenizer.decode(example.ids[example.num_prompt : -1]) == " is bright."
