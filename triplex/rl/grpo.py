"""Group relative policy optimisation (arXiv 2402.03300): PPO's clip, the group's mean as baseline, KL in the loss."""

from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from triplex.models.policy import TokenOutputs
from triplex.rl.advantages import group_relative
from triplex.rl.batch import Batch
from triplex.rl.kl import kl_k3
from triplex.rl.losses import clipped, policy_loss
from triplex.runs.params import Section


class GRPOConfig(Section):
    """`grpo:` names as in the paper."""

    learning_rate: float = Field(gt=0, le=1)
    num_epochs: int = Field(ge=1, description="passes over the sampled batch")
    num_minibatches: int = Field(ge=1, description="optimiser steps a pass")
    group_size: int = Field(ge=2, description="responses a prompt")
    clip_range: float = Field(gt=0, lt=1)
    advantage_eps: float = Field(gt=0, description="added to the group's standard deviation")
    aggregation: Literal["token", "sequence", "constant"]


class GRPO:
    """The two formulas in which algorithms differ: advantages of a batch, loss of a token."""

    value_head = False

    def __init__(self, config: GRPOConfig) -> None:
        self.config = config
        self.group_size = config.group_size

    def kl(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        """The estimator that enters the loss: k3, never negative."""
        return kl_k3(logprobs, ref_logprobs)

    def estimate_advantages(self, batch: Batch, kl_coef: float) -> Batch:
        """`batch` with each token given its response's advantage within the group."""
        valid = batch.response_mask.any(1)
        advantage = group_relative(batch.score, valid, self.group_size, self.config.advantage_eps)
        return replace(batch, advantages=advantage[:, None] * batch.response_mask)

    def loss(self, new: TokenOutputs, batch: Batch, kl_coef: float) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss of each token (B, R), its parts for the log)."""
        assert batch.advantages is not None
        c = self.config
        policy = policy_loss(new.logprobs, batch.old_logprobs, batch.advantages, c.clip_range)
        clip_ratio = clipped(new.logprobs, batch.old_logprobs, batch.advantages, c.clip_range).float()
        loss = policy + kl_coef * self.kl(new.logprobs, batch.ref_logprobs)
        return loss, {"policy_loss": policy, "entropy": new.entropy, "clip_ratio": clip_ratio}
