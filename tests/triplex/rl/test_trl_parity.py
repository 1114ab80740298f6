"""TRL 1.12.0's own GRPO and RLOO on the same tensors and weights agree with ours within 1e-6 in float32.

Where TRL differs, a test states the difference, who is right, and what makes the two equal again:
- The mean of equal float32 rewards is not always that reward, and TRL divides what is left by 1e-4; here it is 0.
- GRPO gives GPT-2 no position ids, so that padding in front of a prompt changes its log-probs; here it does not.
- GRPO's default multiplies the k3 in the loss by the ratio (`use_bias_correction_kl`), which gives it the gradient of
  the true KL; here that is the estimator k3+, the same before the first update, and k3 is the paper's.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import trl
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM

from triplex.rl.advantages import group_centred, group_relative, leave_one_out
from triplex.rl.kl import kl_estimate, kl_k1, kl_k3
from triplex.rl.losses import aggregate, clipped, policy_loss, token_weights
from triplex.rl.masked import masked_sum

GROUP, LENGTH = 4, 6
CLIP_LOW, CLIP_HIGH, BETA = 0.2, 0.28, 0.3
LOSS = {"epsilon": CLIP_LOW, "epsilon_high": CLIP_HIGH, "beta": BETA, "use_bias_correction_kl": False}
PROMPTS = ["The tea", "I like"]  # three tokens each, so that neither is padded


def close(ours: Tensor, trls: Tensor) -> None:
    torch.testing.assert_close(ours, trls, rtol=1e-6, atol=1e-6)


class Quiet:
    """No telemetry."""

    def _send_telemetry(self) -> None:
        pass


class GRPOTrainer(Quiet, trl.GRPOTrainer):
    pass


class RLOOTrainer(Quiet, trl.RLOOTrainer):
    pass


@pytest.fixture
def folder(tmp_path: Path, sharp_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """Where TRL's trainers find the reference of `sharp_lm()`."""
    sharp_lm().save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def trainer(folder: Path, tiny_tokenizer: Any) -> Callable[..., Any]:
    """`trainer(kind, scores=..., **settings)`: a trainer of TRL in eval mode, whose reward returns `scores`."""

    def build(kind: Any, scores: list[float | None] | None = None, **settings: Any) -> Any:
        config = {GRPOTrainer: trl.GRPOConfig, RLOOTrainer: trl.RLOOConfig}[kind](
            output_dir=str(folder), per_device_train_batch_size=2 * GROUP, num_generations=GROUP,
            max_completion_length=LENGTH, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
            gradient_checkpointing=False, **settings,
        )  # fmt: skip
        built = kind(
            model=AutoModelForCausalLM.from_pretrained(folder), reward_funcs=lambda **_: scores, args=config,
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}), processing_class=copy.deepcopy(tiny_tokenizer),
        )  # fmt: skip
        built.model.eval()
        return built

    return build


class Tokens(NamedTuple):
    """Eight responses of 6, 4, 1, 0, ... tokens; garbage stands in the padding."""

    logprobs: Tensor  # (B, R), a leaf
    old: Tensor  # (B, R)
    ref: Tensor  # (B, R)
    mask: Tensor  # (B, R) bool
    advantage: Tensor  # (B,)


@pytest.fixture
def tokens() -> Tokens:
    generator = torch.Generator().manual_seed(5)
    old = -4 * torch.rand(2 * GROUP, LENGTH, generator=generator)
    logprobs = old + 0.4 * torch.randn(old.shape, generator=generator)
    ref = old + 0.5 * torch.randn(old.shape, generator=generator)
    mask = torch.arange(LENGTH) < torch.tensor([6, 4, 1, 0, 5, 6, 2, 3])[:, None]
    return Tokens(logprobs.requires_grad_(), old, ref, mask, torch.randn(2 * GROUP, generator=generator))


def trl_loss(trainer: Any, tokens: Tokens) -> Tensor:
    """What TRL's `compute_loss` makes of these log-probs, put where it asks its model for them."""
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (tokens.logprobs, torch.zeros(()).expand(8, 6), None)
    ids, mask = torch.zeros_like(tokens.mask).long(), tokens.mask.int()
    inputs = {
        "prompt_ids": ids[:, :1], "prompt_mask": mask[:, :1], "completion_ids": ids, "completion_mask": mask,
        "advantages": tokens.advantage, "old_per_token_logps": tokens.old, "ref_per_token_logps": tokens.ref,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return trainer.compute_loss(trainer.model, inputs)


@pytest.mark.parametrize(
    ("loss_type", "aggregation"),
    [("grpo", "sequence"), ("bnpo", "token"), ("dapo", "token"), ("dr_grpo", "constant")],
)
@pytest.mark.parametrize("dual_clip", [None, 1.5])
def test_the_grpo_loss_and_its_gradients(
    trainer: Callable[..., Any], tokens: Tokens, loss_type: str, aggregation: str, dual_clip: float | None
) -> None:
    built = trainer(GRPOTrainer, loss_type=loss_type, delta=dual_clip, **LOSS)
    trls = trl_loss(built, tokens)
    (trl_gradient,) = torch.autograd.grad(trls, tokens.logprobs)
    advantages = tokens.advantage[:, None].expand_as(tokens.old)
    ratio_and_clip = (tokens.logprobs, tokens.old, advantages, CLIP_LOW, CLIP_HIGH, dual_clip)
    loss = policy_loss(*ratio_and_clip) + BETA * kl_k3(tokens.logprobs, tokens.ref)
    ours = aggregate(loss, token_weights(tokens.mask, aggregation, LENGTH))
    (gradient,) = torch.autograd.grad(ours, tokens.logprobs)
    close(ours, trls)
    close(gradient, trl_gradient)
    share = built._metrics["eval"]["clip_ratio/region_mean"][0]
    if dual_clip is None:  # TRL counts the ratios that `delta` holds as if they were those without it
        assert masked_sum(clipped(*ratio_and_clip).float(), tokens.mask) / tokens.mask.sum() == pytest.approx(share)
        assert share > 0.1


def test_k3_and_its_gradient(trainer: Callable[..., Any], tokens: Tokens) -> None:
    silent = tokens._replace(advantage=torch.zeros(2 * GROUP))  # what is left of the loss is the KL
    built = trainer(GRPOTrainer, loss_type="bnpo", beta=1.0, use_bias_correction_kl=False)
    trls = trl_loss(built, silent)
    (trl_gradient,) = torch.autograd.grad(trls, tokens.logprobs)
    ours = aggregate(kl_k3(tokens.logprobs, tokens.ref), token_weights(tokens.mask, "token", LENGTH))
    close(ours, trls)
    close(torch.autograd.grad(ours, tokens.logprobs)[0], trl_gradient)
    assert built._metrics["eval"]["kl"][0] == pytest.approx(ours.item(), abs=1e-6)


def test_trls_corrected_k3_is_k3_plus_before_the_first_update(trainer: Callable[..., Any], tokens: Tokens) -> None:
    on_policy = tokens._replace(advantage=torch.zeros(2 * GROUP), old=tokens.logprobs.detach())
    trls = trl_loss(trainer(GRPOTrainer, loss_type="bnpo", beta=1.0), on_policy)
    (trl_gradient,) = torch.autograd.grad(trls, tokens.logprobs)
    kl = kl_estimate("k3+", tokens.logprobs, tokens.ref)
    ours = aggregate(kl, token_weights(tokens.mask, "token", LENGTH))
    close(ours, trls)
    close(torch.autograd.grad(ours, tokens.logprobs)[0], trl_gradient)


def completions() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(prompt_ids, prompt_mask, response_ids, response_mask) without padding in front."""
    generator = torch.Generator().manual_seed(2)
    prompt_ids, response_ids = (torch.randint(2, 320, (8, width), generator=generator) for width in (3, LENGTH))
    mask = torch.arange(LENGTH) < torch.tensor([6, 4, 1, 2, 5, 6, 2, 3])[:, None]
    return prompt_ids, torch.ones(8, 3, dtype=torch.bool), response_ids, mask


def test_a_grpo_step_has_the_same_gradient_in_every_weight(
    trainer: Callable[..., Any], tokens: Tokens, policy_of: Callable[..., Any]
) -> None:
    """Within 1e-6 of what TRL's formula gives in float64, taken as one vector; a single tensor, summed up over
    thousands of places, within 2e-6, since by processor float32 leaves 5e-7 to 1e-6 of it."""
    built = trainer(GRPOTrainer, loss_type="grpo", temperature=0.8, **LOSS)
    prompt_ids, prompt_mask, ids, mask = completions()
    lm = copy.deepcopy(built.model)
    new = policy_of(lm)(prompt_ids, prompt_mask, ids, mask, 0.8)
    old = (new.logprobs + tokens.old - tokens.logprobs).detach()
    ref = (new.logprobs + tokens.old - tokens.ref).detach()
    loss = policy_loss(new.logprobs, old, tokens.advantage[:, None].expand_as(old), CLIP_LOW, CLIP_HIGH)
    loss = loss + BETA * kl_k3(new.logprobs, ref)
    ours = aggregate(loss, token_weights(mask, "sequence", LENGTH))
    ours.backward()
    inputs = {
        "prompt_ids": prompt_ids, "prompt_mask": prompt_mask.int(),
        "completion_ids": ids, "completion_mask": mask.int(),
        "advantages": tokens.advantage, "old_per_token_logps": old, "ref_per_token_logps": ref,
    }  # fmt: skip
    close(ours, built.compute_loss(built.model, inputs))
    built.compute_loss(built.model.double(), inputs).backward()
    exact = {name: weight.grad for name, weight in built.model.named_parameters()}
    apart = [(weight.grad - exact[name]).norm() for name, weight in lm.named_parameters()]
    whole = [exact[name].norm() for name, _ in lm.named_parameters()]
    assert all(difference <= 2e-6 * norm for difference, norm in zip(apart, whole, strict=True))
    assert torch.stack(apart).norm() <= 1e-6 * torch.stack(whole).norm()


def test_padding_before_a_prompt_changes_trls_gpt2_and_not_ours(
    trainer: Callable[..., Any], policy_of: Callable[..., Any]
) -> None:
    built = trainer(GRPOTrainer)
    prompt_ids, prompt_mask, ids, mask = completions()
    padding = torch.zeros(8, 2).long()
    padded = torch.cat([padding, prompt_ids], 1), torch.cat([padding.bool(), prompt_mask], 1)

    def trls(prompt_ids: Tensor, prompt_mask: Tensor) -> Tensor:
        row, seen = torch.cat([prompt_ids, ids], 1), torch.cat([prompt_mask, mask], 1).int()
        return built._get_per_token_logps_and_entropies(built.model, row, seen, LENGTH)[0].detach()[mask]

    policy = policy_of(built.model)
    ours = policy(prompt_ids, prompt_mask, ids, mask, 1.0).logprobs.detach()[mask]
    close(ours, trls(prompt_ids, prompt_mask))
    torch.testing.assert_close(policy(*padded, ids, mask, 1.0).logprobs.detach()[mask], ours, rtol=1e-5, atol=1e-5)
    assert (trls(*padded) - ours).abs().max() > 0.1


def scored(trainer: Any) -> dict[str, Tensor]:
    """What TRL samples and gives each response."""
    return trainer._generate_and_score_completions([{"prompt": text} for text in PROMPTS for _ in range(GROUP)])


SCORES: list[float | None] = [1.0, -0.5, 2.0, 0.25, 0.5, 0.5, -3.0, 0.75]
HOLES: list[float | None] = [1.0, None, 2.0, 0.25, None, None, -3.0, None]  # three valid ones, and one alone


def of(scores: list[float | None]) -> tuple[Tensor, Tensor]:
    """(score, valid)."""
    valid = torch.tensor([score is not None for score in scores])
    return torch.tensor([0.0 if score is None else score for score in scores]), valid


@pytest.mark.parametrize("scores", [SCORES, HOLES])
def test_group_advantages(trainer: Callable[..., Any], scores: list[float | None]) -> None:
    score, valid = of(scores)
    centred = group_centred(score, valid, GROUP)
    ours = {
        "group": group_relative(score, valid, GROUP, eps=1e-4),
        "none": centred,
        "batch": centred / (score[valid].std() + 1e-4),
    }
    for scale, wanted in ours.items():
        close(wanted, scored(trainer(GRPOTrainer, scores, scale_rewards=scale))["advantages"])


def test_equal_rewards_teach_nothing_here_and_a_rounding_error_in_trl(trainer: Callable[..., Any]) -> None:
    scores: list[float | None] = [0.45, 0.45, 0.45, None, 0.5, 0.5, 0.5, 0.5]  # 3 * 0.45 / 3 is not 0.45 in float32
    assert group_relative(*of(scores), GROUP, eps=1e-4).tolist() == [0.0] * 8
    trls = scored(trainer(GRPOTrainer, scores))["advantages"]
    assert trls[:3].tolist() == [trls[0].item()] * 3
    assert 1e-4 < trls[0].abs() < 1e-3


@pytest.mark.parametrize("scores", [SCORES, HOLES])
def test_rloo_advantages(trainer: Callable[..., Any], scores: list[float | None]) -> None:
    close(leave_one_out(*of(scores), GROUP), scored(trainer(RLOOTrainer, scores, beta=0.0))["advantages"])


def test_rloo_advantages_with_the_kl_in_the_score(
    trainer: Callable[..., Any], sharp_lm: Callable[..., Any], policy_of: Callable[..., Any]
) -> None:
    built = trainer(RLOOTrainer, SCORES, beta=BETA)
    built.ref_model.load_state_dict(sharp_lm(seed=1).state_dict())
    trls = scored(built)
    mask = trls["completion_mask"].bool()
    inputs = (trls["prompt_ids"], trls["prompt_mask"].bool(), trls["completion_ids"], mask)
    with torch.no_grad():
        policy, ref = (policy_of(lm)(*inputs, 1.0).logprobs for lm in (built.model, built.ref_model))
    score, valid = of(SCORES)
    kl = masked_sum(kl_k1(policy, ref), mask, dim=1)
    assert kl.abs().max() > 1
    # the KL of a response is a sum of some tens of nats, whose own last bit is 4e-6
    torch.testing.assert_close(leave_one_out(score - BETA * kl, valid, GROUP), trls["advantages"], rtol=1e-6, atol=1e-5)
