import math
import random

import pytest
import torch

from triplex.rl.losses import aggregate, clipped, policy_loss, token_weights, value_loss

NAN = math.nan
MASK = torch.tensor([[True, True, True], [True, False, False]])
RATIO = torch.tensor([[1.5, 0.5, 1.1], [1.5, 0.5, 1.0]])
ADVANTAGE = torch.tensor([[2.0, 2.0, 2.0], [-2.0, -2.0, -2.0]])


def test_policy_loss_by_hand() -> None:
    loss = policy_loss(RATIO.log(), torch.zeros(2, 3), ADVANTAGE, 0.2)
    # gain: clipped above at 1.2, not below; loss: clipped below at 0.8, not above
    torch.testing.assert_close(loss, torch.tensor([[-2.4, -1.0, -2.2], [3.0, 1.6, 2.0]]))
    assert clipped(RATIO.log(), torch.zeros(2, 3), ADVANTAGE, 0.2).tolist() == [
        [True, False, False], [False, True, False],
    ]  # fmt: skip


def test_value_loss_by_hand() -> None:
    old = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    values = torch.tensor([[1.1, 2.0, 0.0], [2.0, 0.0, 1.0]])
    returns = torch.tensor([[1.0, 3.0, 3.0], [1.0, 1.0, 1.0]])
    # clipped to 1 +- 0.2: 1.1, 1.2, 0.8 | 1.2, 0.8, 1
    wanted = [[0.1**2, 1.8**2, 3.0**2], [1.0, 1.0, 0.0]]
    torch.testing.assert_close(value_loss(values, old, returns, 0.2), torch.tensor(wanted) / 2)


def test_losses_against_scalars() -> None:
    rng = random.Random(0)
    for _ in range(300):
        clip = rng.uniform(0.05, 0.5)
        new, old, advantage, ret = (rng.uniform(-2, 2) for _ in range(4))
        ratio = math.exp(new - old)
        surrogate = min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
        tensors = [torch.tensor([[x]], dtype=torch.float64) for x in (new, old, advantage)]
        assert policy_loss(*tensors, clip).item() == pytest.approx(-surrogate)
        near = old + max(-clip, min(clip, new - old))
        tensors = [torch.tensor([[x]], dtype=torch.float64) for x in (new, old, ret)]
        assert value_loss(*tensors, clip).item() == pytest.approx(0.5 * max((new - ret) ** 2, (near - ret) ** 2))


def test_clipped_is_where_the_gradient_vanishes() -> None:
    generator = torch.Generator().manual_seed(4)
    logprobs = torch.randn(20, 20, generator=generator, dtype=torch.float64, requires_grad=True)
    old, advantages = torch.randn(2, 20, 20, generator=generator, dtype=torch.float64)
    policy_loss(logprobs, old, advantages, 0.2).sum().backward()
    flat = clipped(logprobs, old, advantages, 0.2)
    assert torch.equal(logprobs.grad == 0, flat)
    assert 50 < flat.sum().item() < 350
    slope = -advantages * torch.exp(logprobs.detach() - old)  # d/dx of -A exp(x - old)
    torch.testing.assert_close(logprobs.grad[~flat], slope[~flat])


def test_gradients_against_finite_differences() -> None:
    generator = torch.Generator().manual_seed(9)
    new, old, advantages = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64)
    new.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantages, 0.2), (new,))
    assert torch.autograd.gradcheck(lambda x: value_loss(x, old, advantages, 0.2), (new,))


def test_ratio_one_is_the_plain_policy_gradient() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    advantages = torch.tensor([[2.0, -1.0, 0.5]])
    policy_loss(logprobs, logprobs.detach(), advantages, 0.2).sum().backward()
    assert logprobs.grad.tolist() == [[-2.0, 1.0, -0.5]]


def test_token_weights_by_hand() -> None:
    assert token_weights(MASK, "token", 10).tolist() == [[0.25] * 3, [0.25, 0, 0]]
    torch.testing.assert_close(token_weights(MASK, "sequence", 10), torch.tensor([[1 / 6] * 3, [0.5, 0, 0]]))
    torch.testing.assert_close(token_weights(MASK, "constant", 10), torch.tensor([[0.05] * 3, [0.05, 0, 0]]))
    with pytest.raises(ValueError, match="aggregation = 'mean'"):
        token_weights(MASK, "mean", 10)


def test_aggregate_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    loss = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    lengths = [6, 1, 3, 4]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    rows = [loss[i, :n].tolist() for i, n in enumerate(lengths)]
    wanted = {
        "token": sum(map(sum, rows)) / sum(lengths),
        "sequence": sum(sum(row) / len(row) for row in rows) / 4,
        "constant": sum(map(sum, rows)) / (4 * 9),
    }
    for aggregation, value in wanted.items():
        assert aggregate(loss, token_weights(mask, aggregation, 9)).item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_split_permutation_and_padding_do_not_matter(aggregation: str) -> None:
    generator = torch.Generator().manual_seed(8)
    loss = torch.randn(8, 5, generator=generator)
    mask = torch.arange(5) < torch.tensor([5, 1, 2, 5, 3, 0, 4, 1])[:, None]
    weights = token_weights(mask, aggregation, 5)
    whole = aggregate(loss, weights).item()
    for size in (1, 2, 3, 4):
        parts = zip(loss.split(size), weights.split(size), strict=True)
        assert sum(aggregate(*part).item() for part in parts) == pytest.approx(whole, abs=1e-6)
    order = torch.randperm(8, generator=generator)
    permuted = aggregate(loss[order], token_weights(mask[order], aggregation, 5))
    assert permuted.item() == pytest.approx(whole, abs=1e-6)
    for padding in (NAN, math.inf, 1e30):
        assert aggregate(torch.where(mask, loss, torch.full_like(loss, padding)), weights).item() == whole


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_nothing_to_learn_from(aggregation: str) -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert aggregate(torch.full((2, 3), NAN), token_weights(none, aggregation, 3)).item() == 0


def test_equal_length_makes_all_aggregations_equal() -> None:
    loss, mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)), torch.ones(4, 6, dtype=torch.bool)
    for aggregation in ("token", "sequence", "constant"):
        assert aggregate(loss, token_weights(mask, aggregation, 6)).item() == pytest.approx(loss.mean().item())
