from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from triplex.models.attention import LONGEST, NAME, attend, use_short_attention

DECODER = SimpleNamespace(is_causal=True)


def slow_attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """(B, Q, H, D), sums written out; `seen` (B, Q, S) bool."""
    found = torch.zeros(query.shape[0], query.shape[2], query.shape[1], query.shape[3], dtype=torch.float64)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            k = h // (query.shape[1] // key.shape[1])
            for q in range(query.shape[2]):
                places = seen[b, q].nonzero().squeeze(1)
                scores = torch.stack([(query[b, h, q].double() * key[b, k, s].double()).sum() for s in places])
                weights = (scores / query.shape[3] ** 0.5).exp()
                mixed = sum(w * value[b, k, s].double() for w, s in zip(weights, places, strict=True))
                found[b, q, h] = mixed / weights.sum()
    return found


def tensors(queries: int, keys: int, heads: int = 4, key_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = ((3, heads, queries, 8), (3, key_heads, keys, 8), (3, key_heads, keys, 8))
    query, key, value = (torch.randn(shape, generator=generator) for shape in shapes)
    return query, key, value


def seen_by(queries: int, keys: int) -> Tensor:
    """(Q, S): each of the last places sees what comes up to it."""
    return torch.arange(keys) <= torch.arange(keys - queries, keys)[:, None]


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 6)])
def test_without_a_mask_each_place_sees_what_comes_up_to_it(queries: int, keys: int) -> None:
    query, key, value = tensors(queries, keys)
    found, _ = attend(DECODER, query, key, value, None)
    expected = slow_attention(query, key, value, seen_by(queries, keys).expand(3, -1, -1))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 7), (1, 6)])
def test_a_mask_hides_keys_and_their_content(queries: int, keys: int) -> None:
    query, key, value = tensors(queries, keys)
    mask = seen_by(queries, keys).repeat(3, 1, 1)
    mask[1, :, 0] = queries == keys  # padding on the left; the first query of all must see something
    mask[2, :, 1] = False
    found, _ = attend(DECODER, query, key, value, mask[:, None])
    torch.testing.assert_close(found.double(), slow_attention(query, key, value, mask), atol=1e-6, rtol=1e-5)
    for hidden in (key, value):
        hidden[2, :, 1] = 1e4
    assert torch.equal(attend(DECODER, query, key, value, mask[:, None])[0], found)


def test_a_query_that_sees_nothing_is_finite_and_gives_finite_gradients() -> None:
    query, key, value = (x.requires_grad_() for x in tensors(3, 3))
    mask = seen_by(3, 3).repeat(3, 1, 1)
    mask[0] = False
    attend(DECODER, query, key, value, mask[:, None])[0].sum().backward()
    assert all(bool(torch.isfinite(x.grad).all()) for x in (query, key, value))


def test_gradients_are_those_of_torchs_own() -> None:
    gradients = []
    for attention in (attend, sdpa_attention_forward):
        inputs = [x.requires_grad_() for x in tensors(6, 6, key_heads=4)]
        found, _ = attention(DECODER, *inputs, None)
        (found * torch.arange(found.numel()).view_as(found).remainder(7)).sum().backward()
        gradients.append([x.grad for x in inputs])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"keys": LONGEST + 1}, {}),
        ({"dtype": torch.bfloat16}, {}),
        ({}, {"is_causal": False}),
        ({}, {"position_bias": torch.zeros(1, 4, 5, 5)}),
    ],
    ids=["many keys", "bfloat16", "looking ahead", "a bias of places"],
)
def test_what_it_is_not_for_goes_to_transformers(change: dict[str, Any], options: dict[str, Any]) -> None:
    size = change.get("keys", 5)
    query, key, value = (x.to(change.get("dtype", torch.float32)) for x in tensors(size, size, key_heads=4))
    module = SimpleNamespace(is_causal=True, num_key_value_groups=1)
    found, _ = attend(module, query, key, value, None, **options)
    assert torch.equal(found, sdpa_attention_forward(module, query, key, value, None, **options)[0])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])  # whose queries are float32 again, for their positions
def test_under_autocast_a_padded_batch_goes_to_transformers(tiny_lm: Any, architecture: str) -> None:
    model = tiny_lm(architecture=architecture)
    inputs = {"input_ids": torch.arange(10).view(2, 5), "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1] * 5])}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        theirs = model(**inputs).logits
        use_short_attention(model)
        assert torch.equal(model(**inputs).logits, theirs)


def test_a_model_keeps_its_numbers_and_its_config(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_layer=2, n_embd=32, n_head=4)).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before = model(ids).logits
        use_short_attention(model)
        assert model.config._attn_implementation == NAME
        torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


def test_a_model_that_attends_otherwise_is_left_alone() -> None:
    config = AutoConfig.for_model("gpt2", n_layer=1, n_embd=32, n_head=4)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    use_short_attention(model)
    assert model.config._attn_implementation == "eager"
