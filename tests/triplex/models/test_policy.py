import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from triplex.models.huggingface import HuggingFaceLM
from triplex.models.places import response_states, scatter
from triplex.models.policy import Policy, TokenStatistics
from triplex.models.value import ValueHead, ValueNetwork

# prompts of 3, 1 and 4 tokens, padded on the left; responses of 2, 3 and 0
PROMPTS = [[7, 8, 9], [12], [20, 21, 22, 23]]
RESPONSES = [[30, 31], [40, 41, 42], []]
TinyLM = Callable[..., Any]


def padded(fill: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    prompts = torch.tensor([[fill] * (4 - len(p)) + p for p in PROMPTS])
    responses = torch.tensor([r + [fill] * (3 - len(r)) for r in RESPONSES])
    prompt_mask = torch.arange(4) >= torch.tensor([4 - len(p) for p in PROMPTS])[:, None]
    response_mask = torch.arange(3) < torch.tensor([len(r) for r in RESPONSES])[:, None]
    return prompts, prompt_mask, responses, response_mask


@pytest.fixture
def tiny(tiny_lm: TinyLM, tiny_tokenizer: Any) -> Callable[..., HuggingFaceLM]:
    return lambda *given: HuggingFaceLM(tiny_lm(*given), tiny_tokenizer)


def with_head(lm: HuggingFaceLM) -> Policy:
    policy = Policy(lm, ValueHead(32))
    torch.nn.init.normal_(policy.value.linear.weight)
    return policy


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral", "qwen3"])
def test_against_one_row_at_a_time_without_padding(tiny: TinyLM, architecture: str) -> None:
    lm, other = tiny(3, architecture), tiny(4, architecture)
    policy = with_head(lm)
    with torch.no_grad():
        reference = Policy(other, None).log_distribution(*padded(), 0.7)
        outputs = policy(*padded(), 0.7, ref_log_distribution=reference)
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            ids = torch.tensor([prompt + response])
            seen, others = lm.model(input_ids=ids, output_hidden_states=True), other.model(input_ids=ids)
            for t, token in enumerate(response):
                place = len(prompt) - 1 + t  # the place before a token predicts it
                logprobs, ref = slow_logprobs(seen.logits[0, place]), slow_logprobs(others.logits[0, place])
                assert outputs.logprobs[row, t].item() == pytest.approx(logprobs[token], abs=1e-5)
                entropy = -math.fsum(math.exp(x) * x for x in logprobs)
                assert outputs.entropy[row, t].item() == pytest.approx(entropy, abs=1e-5)
                kl = math.fsum(math.exp(x) * (x - y) for x, y in zip(logprobs, ref, strict=True))
                assert outputs.kl[row, t].item() == pytest.approx(kl, abs=1e-5)
                assert reference[row, t].tolist() == pytest.approx(ref, abs=1e-5)
                hidden = seen.hidden_states[-1][0, place]
                value = math.fsum((hidden * policy.value.linear.weight[0]).tolist())
                assert outputs.values[row, t].item() == pytest.approx(value, abs=1e-4)


def slow_logprobs(logits: torch.Tensor) -> list[float]:
    divided = [x / 0.7 for x in logits.tolist()]
    total = math.log(math.fsum(math.exp(x) for x in divided))
    return [x - total for x in divided]


def test_uniform_model_by_hand(tiny: TinyLM) -> None:
    lm = tiny()
    torch.nn.init.zeros_(lm.model.get_input_embeddings().weight)  # tied: every logit is 0
    outputs = Policy(lm, None)(*padded(), 1.0)
    v = math.log(320)
    torch.testing.assert_close(outputs.logprobs, torch.tensor([[-v, -v, 0], [-v] * 3, [0] * 3]))
    torch.testing.assert_close(outputs.entropy, torch.tensor([[v, v, 0], [v] * 3, [0] * 3]))
    assert outputs.values is None
    assert outputs.kl is None


def test_statistics_by_hand() -> None:
    """Two tokens of distribution (1/2, 1/4, 1/4) and (1, 0, 0) nearly, against a uniform reference."""
    logits = torch.tensor([[2.0, 1.0, 1.0], [64.0, 0.0, 0.0]]) * math.log(2)
    uniform = torch.full((2, 3), -math.log(3))
    logprobs, entropy, kl = TokenStatistics.apply(logits, torch.tensor([1, 0]), uniform, True)
    torch.testing.assert_close(logprobs, torch.tensor([-2 * math.log(2), 0.0]))
    torch.testing.assert_close(entropy, torch.tensor([1.5 * math.log(2), 0.0]))
    torch.testing.assert_close(kl, torch.tensor([math.log(3) - 1.5 * math.log(2), math.log(3)]))


def test_gradients_are_those_of_the_formulas() -> None:
    """Against automatic differentiation of the definitions, each output alone and all together."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(5, 7, generator=generator, dtype=torch.float64).log_softmax(-1)
    tokens = torch.tensor([0, 6, 3, 3, 1])

    def slow() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        p = logits.exp() / logits.exp().sum(-1, keepdim=True)
        return p[range(5), tokens].log(), -(p * p.log()).sum(-1), (p * (p.log() - reference)).sum(-1)

    for weights in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, -2, 3)]:
        scale = torch.randn(5, generator=generator, dtype=torch.float64)
        found = TokenStatistics.apply(logits, tokens, reference, True)
        pairs = [
            torch.autograd.grad(sum((w * x * scale).sum() for w, x in zip(weights, given, strict=True)), logits)[0]
            for given in (found, slow())
        ]
        torch.testing.assert_close(*pairs)


def test_entropy_for_the_log_has_no_gradient(tiny: TinyLM) -> None:
    policy = Policy(tiny(), None)
    logged, learnt = policy(*padded(), 1.0, entropy_grad=False), policy(*padded(), 1.0)
    assert torch.equal(logged.entropy, learnt.entropy)
    assert torch.equal(logged.logprobs, learnt.logprobs)
    assert learnt.entropy.requires_grad
    parameter = policy.lm.model.get_input_embeddings().weight
    of_logprobs = torch.autograd.grad(learnt.logprobs.sum(), parameter)[0]
    (found,) = torch.autograd.grad((logged.logprobs + 5 * logged.entropy).sum(), parameter)
    assert torch.equal(found, of_logprobs)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral", "qwen3"])
def test_padding_does_not_enter(tiny: TinyLM, architecture: str) -> None:
    """Neither what stands in it, nor how much of it there is, to the last bit."""
    policy = with_head(tiny(0, architecture))
    reference = Policy(tiny(1, architecture), None)
    prompts, prompt_mask, responses, response_mask = padded(319)
    wider = [torch.nn.functional.pad(x, (5, 0)) for x in (prompts, prompt_mask)]
    wider += [torch.nn.functional.pad(x, (0, 3)) for x in (responses, response_mask)]
    one = policy(*padded(), 1.0, ref_log_distribution=reference.log_distribution(*padded(), 1.0))
    for given in [padded(319), wider]:
        other = policy(*given, 1.0, ref_log_distribution=reference.log_distribution(*given, 1.0))
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a, b[:, :3])
            assert b[:, 3:].abs().sum().item() == 0
            assert b[~given[3]].abs().sum().item() == 0


def test_neighbours_and_order_change_nothing(tiny: TinyLM) -> None:
    policy = with_head(tiny())
    whole = policy(*padded(), 1.0)
    parts = [policy(*(x[i : i + 1] for x in padded()), 1.0) for i in range(3)]
    order = torch.tensor([2, 0, 1])
    permuted = policy(*(x[order] for x in padded()), 1.0)
    for name in ("logprobs", "entropy", "values"):
        each = getattr(whole, name)
        torch.testing.assert_close(torch.cat([getattr(part, name) for part in parts]), each, atol=2e-6, rtol=0)
        torch.testing.assert_close(getattr(permuted, name), each[order], atol=2e-6, rtol=0)


def test_no_gradient_comes_from_padding(tiny: TinyLM) -> None:
    """Not even where the loss there is infinite or not a number."""
    policy, mask = with_head(tiny()), padded()[3]
    gradients = []
    for outside in (1.0, math.nan, math.inf):
        policy.zero_grad()
        outputs = policy(*padded(), 1.0)
        (sum(x for x in outputs if x is not None) * torch.where(mask, 1.0, outside)).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in policy.parameters()])
    for each in zip(*gradients, strict=True):
        assert each[0].isfinite().all()
        assert torch.equal(each[0], each[1])
        assert torch.equal(each[0], each[2])


def test_a_batch_without_any_token(tiny: TinyLM) -> None:
    policy = with_head(tiny())
    outputs = policy(*(x[2:] for x in padded()), 1.0)
    assert all(x.shape == (1, 3) and x.abs().sum().item() == 0 for x in outputs if x is not None)
    (outputs.logprobs + outputs.values).sum().backward()
    assert all(p.grad is None or p.grad.abs().sum().item() == 0 for p in policy.parameters())


def test_a_value_network_stands_in_for_the_head(tiny: TinyLM) -> None:
    lm = tiny()
    network = ValueNetwork.from_policy(tiny(7))
    torch.nn.init.normal_(network.head.linear.weight)
    outputs = Policy(lm, network)(*padded(), 1.0)
    assert torch.equal(outputs.values, network(*padded()))
    assert torch.equal(outputs.logprobs, Policy(lm, None)(*padded(), 1.0).logprobs)
    assert outputs.values.abs().sum().item() > 0


def test_places_by_hand(tiny: TinyLM) -> None:
    class Counting(torch.nn.Module):
        """The state at a place is (token, its column); no real token may stand behind padding."""

        reads_prompts_once = False

        def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            assert (mask.long().diff(dim=1) <= 0).all()
            return torch.stack([ids, torch.arange(ids.shape[1]).expand(ids.shape)], -1).float()

    states = response_states(Counting(), *padded())
    assert states.tolist() == [[9, 2], [30, 3], [12, 0], [40, 1], [41, 2]]
    mask = padded()[3]
    assert scatter(states[:, 0], mask).tolist() == [[9, 30, 0], [12, 40, 41], [0, 0, 0]]
    assert scatter(states, mask)[1].tolist() == [[12, 0], [40, 1], [41, 2]]


def test_a_bfloat16_model_has_float32_outputs(tiny_lm: TinyLM, tiny_tokenizer: Any) -> None:
    exact = Policy(HuggingFaceLM(tiny_lm(), tiny_tokenizer), None)(*padded(), 1.0)
    rounded = with_head(HuggingFaceLM(tiny_lm().to(torch.bfloat16), tiny_tokenizer))(*padded(), 1.0)
    assert {x.dtype for x in rounded if x is not None} == {torch.float32}
    torch.testing.assert_close(rounded.logprobs, exact.logprobs, atol=0.05, rtol=0)
