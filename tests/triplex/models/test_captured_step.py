"""Steps at fixed places, run on a CPU without a graph; the graph itself needs a CUDA device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.triplex.models.test_huggingface import MODELS, PROMPTS, build, padded, slow_states
from triplex.models import captured_step
from triplex.models.captured_step import CapturedStep
from triplex.models.huggingface import HuggingFaceLM

ONE_MASK = [name for name in MODELS if "window" not in name]


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_step, "DEVICES", {"cpu"})


@pytest.mark.parametrize("prompts", [PROMPTS, [[7, 8, 9], [12, 13, 14]]], ids=["padded", "not padded"])
@pytest.mark.parametrize("name", ONE_MASK)
@torch.no_grad()
def test_fixed_steps_are_reading(name: str, prompts: list[list[int]], tiny_tokenizer: Any) -> None:
    model = build(name, attn_implementation="sdpa")
    decoder = HuggingFaceLM(model, tiny_tokenizer).decoder(*padded(prompts, left=True), 2, 10)
    texts = [list(prompt) for prompt in prompts for _ in range(2)]
    states = decoder.prefill()
    for t in range(10):
        torch.testing.assert_close(states, slow_states(model, texts), atol=1e-4, rtol=1e-4)
        tokens = torch.randint(2, 320, (len(texts),), generator=torch.Generator().manual_seed(t))
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
        if t in (2, 5):
            rows = torch.tensor([0, 1, 3] if t == 2 else [1, 2])
            decoder.keep(rows)
            texts, tokens = [texts[row] for row in rows], tokens[rows]
        states = decoder.step(tokens)
    assert decoder._captured is not None


@pytest.fixture
def step(tiny_tokenizer: Any) -> CapturedStep:
    decoder = HuggingFaceLM(build("gpt2"), tiny_tokenizer).decoder(*padded(PROMPTS, left=True), 2, 10)
    decoder.prefill()
    decoder.step(torch.full((6,), 5))
    assert decoder._captured is not None
    return decoder._captured


def test_a_step_run_twice_is_the_same_step(step: CapturedStep) -> None:
    """A capture runs it once before."""
    with torch.inference_mode():
        assert torch.equal(step.run().clone(), step.run())


def test_nothing_in_a_step_waits_for_the_device(step: CapturedStep, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph cannot hold what Python decides by a tensor's values."""
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True):
        assert step.run().shape == (6, 32)
    forward: Callable[..., Any] = step._forward
    monkeypatch.setattr(step, "_forward", lambda ids, *rest: forward(ids, *rest) * ids.sum().item())
    with (
        torch.inference_mode(),
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises(DataDependentOutputException),
    ):
        step.run()
