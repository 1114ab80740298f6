import math
import random

import pytest
import torch

from triplex.rl.kl import AdaptiveKL, FixedKL, kl_full, kl_k1, kl_k2, kl_k3

# p and r over three tokens; KL(p || r) written out
P, R = [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]
KL = 0.5 * math.log(2) - 0.25 * math.log(2)


def test_estimators_by_hand() -> None:
    logprobs = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.125]]).log()
    ref = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.125, 0.5]]).log()
    log2 = math.log(2)
    k1 = [[log2, -log2, 0], [0, log2, -2 * log2]]
    k3 = [[0.5 - 1 + log2, 2 - 1 - log2, 0], [0, 0.5 - 1 + log2, 4 - 1 - 2 * log2]]
    torch.testing.assert_close(kl_k1(logprobs, ref), torch.tensor(k1))
    torch.testing.assert_close(kl_k2(logprobs, ref), torch.tensor(k1) ** 2 / 2)
    torch.testing.assert_close(kl_k3(logprobs, ref), torch.tensor(k3), atol=1e-6, rtol=1e-6)


def test_full_by_hand() -> None:
    assert kl_full(torch.tensor([[P]]).log(), torch.tensor([[R]]).log()).item() == pytest.approx(KL, abs=1e-6)
    shifted = torch.tensor([[P]]).log() + 7  # logits, not log-probabilities
    assert kl_full(shifted, torch.tensor([[R]]).log()).item() == pytest.approx(KL, abs=1e-6)


def test_expectation_over_samples_is_the_divergence() -> None:
    """k1 and k3 are unbiased: their exact expectation under p, by enumeration, is the divergence."""
    rng = random.Random(1)
    for _ in range(20):
        p, r = ([rng.random() for _ in range(11)] for _ in range(2))
        p, r = [x / sum(p) for x in p], [x / sum(r) for x in r]
        divergence = math.fsum(a * math.log(a / b) for a, b in zip(p, r, strict=True))
        log_p, log_r = (torch.tensor(x, dtype=torch.float64).log() for x in (p, r))
        weights = torch.tensor(p, dtype=torch.float64)
        assert (weights * kl_k1(log_p, log_r)).sum().item() == pytest.approx(divergence, abs=1e-12)
        assert (weights * kl_k3(log_p, log_r)).sum().item() == pytest.approx(divergence, abs=1e-12)
        assert kl_full(log_p[None, None], log_r[None, None]).item() == pytest.approx(divergence, abs=1e-6)


def test_gradient_of_the_k2_expectation_is_the_divergences() -> None:
    """Samples held fixed, as in a loss: E_p[d k2] equals d KL(p || r); k1's would be zero, k3's is another one."""
    logits = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    log_r = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64).log()
    log_p = torch.log_softmax(logits, 0)
    weights = log_p.exp().detach()
    (k2,) = torch.autograd.grad((weights * kl_k2(log_p, log_r)).sum(), logits, retain_graph=True)
    (k1,) = torch.autograd.grad((weights * kl_k1(log_p, log_r)).sum(), logits, retain_graph=True)

    def divergence(x: torch.Tensor) -> float:
        p = [math.exp(v) for v in x.tolist()]
        total = sum(p)
        return sum(v / total * (math.log(v / total) - r) for v, r in zip(p, log_r.tolist(), strict=True))

    for i in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[i] = 1e-6
        slope = (divergence(logits.detach() + step) - divergence(logits.detach() - step)) / 2e-6
        assert k2[i].item() == pytest.approx(slope, abs=1e-8)
        assert k1[i].item() == pytest.approx(0, abs=1e-12)


def test_k3_is_never_negative_and_exact_for_tiny_differences() -> None:
    difference = torch.tensor([-20.0, -1.0, -1e-4, -1e-6, 0.0, 1e-6, 1e-4, 1.0, 20.0])
    values = kl_k3(torch.zeros(9), difference)
    assert (values >= 0).all()
    assert values[4].item() == 0
    assert values[6].item() == pytest.approx(5e-9, rel=1e-2)  # naive exp(x) - 1 - x gives 0 or 5e-8 in float32


def test_rows_permuted() -> None:
    logits, ref = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(0)).chunk(2)
    order = torch.tensor([1, 0])
    assert torch.equal(kl_full(logits[order], ref[order]), kl_full(logits, ref)[order])


def test_equal_distributions_are_at_no_distance() -> None:
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    logprobs = logits.log_softmax(-1)[..., 0]
    for estimator in (kl_k1, kl_k2, kl_k3):
        assert estimator(logprobs, logprobs).abs().max().item() == 0
    assert kl_full(logits, logits).abs().max().item() == 0


def test_adaptive_by_hand() -> None:
    control = AdaptiveKL(coef=0.1, target=0.05, horizon=1000)
    control.update(0.055, 100)  # 10 % above: 1 + 0.1 * 0.1
    assert control.coef == pytest.approx(0.1 * 1.01)
    control.update(1.0, 100)  # clipped at 20 %
    assert control.coef == pytest.approx(0.1 * 1.01 * 1.02)
    control.update(-3.0, 100)
    assert control.coef == pytest.approx(0.1 * 1.01 * 1.02 * 0.98)
    control.update(0.05, 100)
    assert control.coef == pytest.approx(0.1 * 1.01 * 1.02 * 0.98)


@pytest.mark.parametrize("start", [0.001, 0.05, 5.0])
def test_adaptive_settles_near_its_target(start: float) -> None:
    """Closed loop: a policy whose divergence at rest is gain / coef, reached slowly and seen through noise."""
    control, rng = AdaptiveKL(coef=start, target=0.05, horizon=500), random.Random(0)
    kl, seen = 0.0, []
    for _ in range(1500):
        kl += 0.2 * (0.01 / control.coef - kl)
        control.update(kl * rng.uniform(0.8, 1.2), 64)
        seen.append(kl)
    late = seen[-300:]
    assert sum(late) / len(late) == pytest.approx(0.05, rel=0.1)
    assert min(late) > 0.035
    assert max(late) < 0.065
    assert control.coef == pytest.approx(0.2, rel=0.3)


def test_fixed_stays() -> None:
    control = FixedKL(0.3)
    control.update(100.0, 64)
    assert control.coef == 0.3
