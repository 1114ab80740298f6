import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from triplex.models.policy import Policy, position_ids, response_outputs

# prompts of 3, 1 and 4 tokens, padded on the left; responses of 2, 3 and 0
PROMPTS = [[7, 8, 9], [12], [20, 21, 22, 23]]
RESPONSES = [[30, 31], [40, 41, 42], []]


def padded(fill: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    prompts = torch.tensor([[fill] * (4 - len(p)) + p for p in PROMPTS])
    responses = torch.tensor([r + [fill] * (3 - len(r)) for r in RESPONSES])
    prompt_mask = torch.arange(4) >= torch.tensor([4 - len(p) for p in PROMPTS])[:, None]
    response_mask = torch.arange(3) < torch.tensor([len(r) for r in RESPONSES])[:, None]
    return prompts, prompt_mask, responses, response_mask


def test_position_ids_by_hand() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral", "qwen3"])
def test_against_one_row_at_a_time_without_padding(tiny_lm: Callable[..., Any], architecture: str) -> None:
    lm = tiny_lm(3, architecture)
    policy = Policy(lm, value_head=True)
    torch.nn.init.normal_(policy.value_head.weight)
    with torch.no_grad():
        outputs = policy(*padded(), 0.7)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            seen = lm(input_ids=torch.tensor([prompt + response]), output_hidden_states=True)
            for t, token in enumerate(response):
                place = len(prompt) - 1 + t  # the place before a token predicts it
                logits = [x / 0.7 for x in seen.logits[0, place].tolist()]
                total = math.log(math.fsum(math.exp(x) for x in logits))
                logprobs = [x - total for x in logits]
                assert outputs.logprobs[row, t].item() == pytest.approx(logprobs[token], abs=1e-5)
                entropy = -math.fsum(math.exp(x) * x for x in logprobs)
                assert outputs.entropy[row, t].item() == pytest.approx(entropy, abs=1e-5)
                hidden = seen.hidden_states[-1][0, place]
                value = math.fsum((hidden * policy.value_head.weight[0]).tolist())
                assert outputs.values[row, t].item() == pytest.approx(value, abs=1e-4)


def test_uniform_model_by_hand(tiny_lm: Callable[..., Any]) -> None:
    lm = tiny_lm()
    torch.nn.init.zeros_(lm.get_input_embeddings().weight)  # tied: every logit is 0
    outputs = Policy(lm, value_head=False)(*padded(), 1.0)
    log_v = math.log(320)
    torch.testing.assert_close(outputs.logprobs, torch.tensor([[-log_v, -log_v, 0], [-log_v] * 3, [0] * 3]))
    torch.testing.assert_close(outputs.entropy, torch.full((3, 3), log_v))
    assert outputs.values is None


def test_padding_content_does_not_enter(tiny_lm: Callable[..., Any]) -> None:
    policy = Policy(tiny_lm(), value_head=True)
    torch.nn.init.normal_(policy.value_head.weight)
    mask = padded()[3]
    one, other = policy(*padded(1), 1.0), policy(*padded(319), 1.0)
    assert torch.equal(one.logprobs, other.logprobs)
    assert torch.equal(one.entropy[mask], other.entropy[mask])
    assert torch.equal(one.values[mask], other.values[mask])
    wide = [torch.nn.functional.pad(x, (5, 0)) for x in padded()[:2]]
    shifted = policy(*wide, *padded()[2:], 1.0)
    torch.testing.assert_close(shifted.logprobs, one.logprobs, atol=1e-5, rtol=0)


def test_split_and_permutation(tiny_lm: Callable[..., Any]) -> None:
    policy = Policy(tiny_lm(), value_head=False)
    whole = policy(*padded(), 1.0).logprobs
    parts = [policy(*(x[i : i + 1] for x in padded()), 1.0).logprobs for i in range(3)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)
    order = torch.tensor([2, 0, 1])
    permuted = policy(*(x[order] for x in padded()), 1.0).logprobs
    torch.testing.assert_close(permuted, whole[order], atol=1e-5, rtol=0)


def test_no_gradient_comes_from_padding(tiny_lm: Callable[..., Any]) -> None:
    """Not even where the loss there is infinite or not a number."""
    policy = Policy(tiny_lm(), value_head=False)
    logprobs, mask = policy(*padded(), 1.0).logprobs, padded()[3]
    (logprobs * torch.where(mask, 1.0, math.nan)).sum().backward()
    dirty = [parameter.grad.clone() for parameter in policy.parameters()]
    policy.zero_grad()
    policy(*padded(), 1.0).logprobs[mask].sum().backward()
    for gradient, parameter in zip(dirty, policy.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_value_head_starts_at_zero_and_learns(tiny_lm: Callable[..., Any]) -> None:
    policy = Policy(tiny_lm(), value_head=True)
    outputs = policy(*padded(), 1.0)
    assert outputs.values.abs().max().item() == 0
    assert outputs.values.shape == (3, 3)
    outputs.values.sum().backward()
    assert policy.value_head.weight.grad.abs().max().item() > 0


def test_logits_are_those_that_predict_the_response(tiny_lm: Callable[..., Any]) -> None:
    lm = tiny_lm()
    logits, states = response_outputs(lm, *padded())
    assert logits.shape == (3, 3, 320)
    assert states is None
    alone = lm(input_ids=torch.tensor([PROMPTS[1] + RESPONSES[1]])).logits[0, :3]
    torch.testing.assert_close(logits[1], alone, atol=1e-5, rtol=0)
