"""GPT-2's activation in one kernel: the same function, and the same model to whoever reads what it saves."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.activations import FastGELUActivation, NewGELUActivation

from triplex.models.gelu import fuse_gelu
from triplex.models.huggingface import HuggingFaceTrunk


def formula(x: Tensor) -> Tensor:
    """GELU by tanh, of Hendrycks and Gimpel (https://arxiv.org/abs/1606.08415), in float64."""
    x = x.double()
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def model_with(activation: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=32, activation_function=activation
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("written_out", [NewGELUActivation, FastGELUActivation])
def test_it_is_the_same_function_and_has_the_same_slope(written_out: type[nn.Module]) -> None:
    module = nn.Sequential(written_out())
    x = torch.linspace(-8, 8, 4001, requires_grad=True)
    before = module(x)
    (slope_before,) = torch.autograd.grad(before.sum(), x)
    fuse_gelu(module)
    assert isinstance(module[0], nn.GELU)
    after = module(x)
    (slope_after,) = torch.autograd.grad(after.sum(), x)
    torch.testing.assert_close(after.double(), formula(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(slope_after, slope_before, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_fast"])
def test_a_trunk_computes_by_it_and_saves_the_model_that_it_was_given(activation: str, tmp_path: Path) -> None:
    model, given = model_with(activation), model_with(activation)
    trunk = HuggingFaceTrunk(model)
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = given.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(trunk.states(ids, torch.ones_like(ids).bool()), wanted, atol=2e-6, rtol=1e-5)
    assert sum(isinstance(module, nn.GELU) for module in model.modules()) == 2
    model.save_pretrained(tmp_path / "ours")
    given.save_pretrained(tmp_path / "theirs")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_pytorch_tanh"])
def test_other_activations_stay(activation: str) -> None:
    model = model_with(activation)
    before = [type(module) for module in model.modules()]
    fuse_gelu(model)
    assert [type(module) for module in model.modules()] == before
