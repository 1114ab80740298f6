"""Proximal policy optimisation (arXiv 1707.06347) for text: KL-shaped rewards, GAE, clipped policy and value loss."""

from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from triplex.models.policy import TokenOutputs
from triplex.rl.advantages import gae, token_rewards
from triplex.rl.batch import Batch
from triplex.rl.kl import kl_k1
from triplex.rl.losses import clipped, policy_loss, value_loss
from triplex.rl.masked import whiten
from triplex.runs.params import Section


class PPOConfig(Section):
    """`ppo:` names as in the papers."""

    learning_rate: float = Field(gt=0, le=1)
    num_epochs: int = Field(ge=1, description="passes over the sampled batch")
    num_minibatches: int = Field(ge=1, description="optimiser steps a pass")
    clip_range: float = Field(gt=0, lt=1)
    value_clip_range: float = Field(gt=0)
    value_coef: float = Field(ge=0)
    entropy_coef: float = Field(ge=0)
    gamma: float = Field(ge=0, le=1)
    gae_lambda: float = Field(ge=0, le=1)
    aggregation: Literal["token", "sequence", "constant"]


class PPO:
    """The two formulas in which algorithms differ: advantages of a batch, loss of a token."""

    value_head = True
    group_size = 1

    def __init__(self, config: PPOConfig) -> None:
        self.config = config

    def kl(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        """The estimator that enters the rewards: k1, whose expectation over samples is the KL divergence."""
        return kl_k1(logprobs, ref_logprobs)

    def estimate_advantages(self, batch: Batch, kl_coef: float) -> Batch:
        """`batch` with returns, taken before whitening, and whitened advantages."""
        assert batch.values is not None
        c, mask = self.config, batch.response_mask
        rewards = token_rewards(batch.score, self.kl(batch.old_logprobs, batch.ref_logprobs), mask, kl_coef)
        advantages, returns = gae(rewards, batch.values, mask, c.gamma, c.gae_lambda)
        return replace(batch, advantages=whiten(advantages, mask), returns=returns)

    def loss(self, new: TokenOutputs, batch: Batch, kl_coef: float) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss of each token (B, R), its parts for the log). The KL stands in the rewards, not here."""
        assert new.values is not None
        assert batch.values is not None
        assert batch.advantages is not None
        assert batch.returns is not None
        c = self.config
        policy = policy_loss(new.logprobs, batch.old_logprobs, batch.advantages, c.clip_range)
        value = value_loss(new.values, batch.values, batch.returns, c.value_clip_range)
        clip_ratio = clipped(new.logprobs, batch.old_logprobs, batch.advantages, c.clip_range).float()
        loss = policy + c.value_coef * value - c.entropy_coef * new.entropy
        parts = {"policy_loss": policy, "value_loss": value, "entropy": new.entropy, "clip_ratio": clip_ratio}
        return loss, parts
