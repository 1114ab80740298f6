"""A policy with something to say and a batch of uneven rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.triplex.rl.even_tokens import HELD_OUT, OWN, PROMPTS, SHARED, TRAIN, Make, even_share
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.lora import with_adapters
from triplex.models.policy import Policy
from triplex.models.value import ValueHead, ValueNetwork
from triplex.rewards.composite import CompositeReward, Part
from triplex.rl.algorithms import ALGORITHMS
from triplex.rl.batch import Batch
from triplex.rl.callbacks import Callback
from triplex.rl.config import TrainConfig
from triplex.rl.ppo import PPO
from triplex.rl.prompts import Prompts
from triplex.rl.trainer import Trainer
from triplex.runs.stage import Run


@pytest.fixture
def sharp_lm(tiny_lm: Callable[..., Any]) -> Callable[..., Any]:
    """`sharp_lm(seed=0)`: the tiny model with larger weights, so that its distributions are far from uniform."""

    def build(seed: int = 0, architecture: str = "gpt2") -> Any:
        lm = tiny_lm(seed, architecture)
        for parameter in lm.parameters():
            if parameter.dim() == 2:
                parameter.data.mul_(10)
        return lm

    return build


@pytest.fixture
def policy_of(tiny_tokenizer: Any) -> Callable[..., Policy]:
    """`policy_of(lm, value_head=False)`: a policy on this model."""

    def build(lm: Any, *, value_head: bool = False) -> Policy:
        wrapped = HuggingFaceLM(lm, tiny_tokenizer)
        return Policy(wrapped, ValueHead(wrapped.hidden_size) if value_head else None)

    return build


@pytest.fixture
def uneven_batch() -> Batch:
    """Four responses of 5, 2, 4 and 1 tokens to prompts of 3, 1, 4 and 2; NaN and wild ids stand in the padding."""
    generator = torch.Generator().manual_seed(11)
    prompt_mask = torch.arange(4) >= torch.tensor([1, 3, 0, 2])[:, None]
    response_mask = torch.arange(5) < torch.tensor([5, 2, 4, 1])[:, None]
    padding = torch.full((4, 5), float("nan"))
    logprobs = -torch.rand(2, 4, 5, generator=generator) - 4.5
    old, ref = (torch.where(response_mask, each, padding) for each in logprobs)
    return Batch(
        row=torch.arange(4),
        prompt_ids=torch.randint(2, 320, (4, 4), generator=generator),
        prompt_mask=prompt_mask,
        response_ids=torch.randint(2, 320, (4, 5), generator=generator),
        response_mask=response_mask,
        old_logprobs=old,
        ref_logprobs=ref,
        kl=old - ref,
        score=torch.tensor([1.0, -0.5, 2.0, 0.25]),
        values=torch.where(response_mask, torch.randn(4, 5, generator=generator), padding),
    )


@pytest.fixture
def make(tiny_lm: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path) -> Make:
    """A trainer on fresh models; equal arguments give equal trainers, `state` names the folder of checkpoints."""

    def build(
        name: str, *, reward: Any = even_share, weight: float = 1.0, seed: int = 1, state: str = "state",
        prompts: Prompts = PROMPTS, algorithm: dict[str, Any] | None = None, eos_ids: Sequence[int] = (0,),
        callbacks: Sequence[Callback] = (), moved: float = 0.0, **train: Any,
    ) -> Trainer:  # fmt: skip
        kind, config = ALGORITHMS[name]
        chosen = kind(config(**SHARED | OWN[name] | (algorithm or {})))
        settings = TrainConfig(**TRAIN | train)
        (tmp_path / state).mkdir(exist_ok=True)
        model, frozen = tiny_lm(0), tiny_lm(0)
        with torch.no_grad():
            for each in (model, frozen):
                next(each.parameters())[0, 0] += moved
        model.generation_config.eos_token_id = list(eos_ids)
        lm = HuggingFaceLM(with_adapters(model, settings.lora), tiny_tokenizer)
        reference = None if settings.lora.rank else HuggingFaceLM(frozen, tiny_tokenizer)
        value: Any = None
        if isinstance(chosen, PPO):
            own_trunk = chosen.config.value.kind == "network"
            value = ValueNetwork.from_policy(lm) if own_trunk else ValueHead(lm.hidden_size)
        return Trainer(
            settings, chosen, Policy(lm, value), reference, tiny_tokenizer,
            CompositeReward({"even": Part(reward, weight)}), prompts, HELD_OUT,
            Run(name=f"train@{name}", seed=seed, state=tmp_path / state), callbacks=callbacks,
        )  # fmt: skip

    return build
