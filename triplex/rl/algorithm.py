"""What all algorithms share: PPO's clipped loss with an entropy bonus and a KL penalty, and its parameters.

Legend: B sequences, R response tokens, G responses a prompt.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from triplex.models.policy import TokenOutputs
from triplex.rl.batch import Batch
from triplex.rl.kl import kl_estimate
from triplex.rl.losses import clipped, policy_loss
from triplex.rl.masked import masked_sum
from triplex.runs.params import OrAbsent, Section, described


class KLConfig(Section):
    """`kl:` how the distance to the reference is paid for; train.kl_coef is its price."""

    place: Literal["reward", "loss"] = Field(description="off what is earned, or on top of the loss")
    estimator: Literal["k1", "k2", "k3", "k1+", "k3+", "full"] = described(
        "of KL(policy || reference); `+`: with the gradient of k2; full: exact, over the vocabulary",
        source="joschu.net/blog/kl-approx.html",
    )

    @model_validator(mode="after")
    def _has_the_right_gradient(self) -> Self:
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError("the gradient of k1 in the loss is 0 on average; take k1+ (its value, the right gradient)")
        if self.place == "reward" and self.estimator.endswith("+"):
            raise ValueError(f"{self.estimator} differs from {self.estimator[:-1]} in the loss alone; write the latter")
        return self


class AlgorithmConfig(Section):
    """What every algorithm's section holds; names as in the papers."""

    learning_rate: float = described("Adam's, with epsilon 1e-5", source="arXiv 1412.6980", gt=0, le=1)
    num_epochs: int = described("passes over the sampled batch", unit="epochs", source="arXiv 1707.06347", ge=1)
    num_minibatches: int = described("optimiser steps a pass", unit="steps an epoch", source="arXiv 1707.06347", ge=1)
    clip_range: float = described(
        "how far below 1 (and above, unless clip_range_high) a ratio pays", source="arXiv 1707.06347", gt=0, lt=1
    )
    clip_range_high: OrAbsent[float] = described(
        "how far above 1 (DAPO's clip-higher)", source="arXiv 2503.14476", default=None, gt=0
    )
    dual_clip: OrAbsent[float] = described(
        "bound of the ratio where the advantage is < 0", source="arXiv 1912.09729", default=None, gt=1
    )
    entropy_coef: float = described(
        "bonus a nat of the policy's entropy", unit="loss per nat", source="arXiv 1707.06347", ge=0
    )
    kl: KLConfig
    aggregation: Literal["token", "sequence", "constant"] = described(
        "what the loss is a mean over: tokens, responses, or max_new_tokens times the responses",
        source="arXiv 2503.20783",
    )


class GroupConfig(AlgorithmConfig):
    """Of algorithms that compare the responses to one prompt with each other."""

    group_size: int = described("responses a prompt", unit="responses", source="arXiv 2402.03300", ge=2)


class Algorithm(ABC):
    """The two formulas in which algorithms differ: the advantages of a batch, the loss of a token."""

    uses_values = False
    group_size = 1

    def __init__(self, config: AlgorithmConfig) -> None:
        self.config = config

    @abstractmethod
    def estimate_advantages(self, batch: Batch, kl_coef: float) -> Batch:
        """`batch` with `advantages`, and what else the loss needs."""

    def loss(self, new: TokenOutputs, batch: Batch, kl_coef: float) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss of each token (B, R), its parts for the log): -surrogate - entropy bonus + KL penalty."""
        assert batch.advantages is not None
        c = self.config
        high = c.clip_range if c.clip_range_high is None else c.clip_range_high
        ratio_and_clip = (new.logprobs, batch.old_logprobs, batch.advantages, c.clip_range, high, c.dual_clip)
        policy = loss = policy_loss(*ratio_and_clip)
        if c.entropy_coef:
            loss = loss - c.entropy_coef * new.entropy
        if c.kl.place == "loss":
            loss = loss + kl_coef * self._kl(new, batch)
        return loss, {"policy_loss": policy, "entropy": new.entropy, "clip_ratio": clipped(*ratio_and_clip).float()}

    def _kl(self, new: TokenOutputs, batch: Batch) -> Tensor:
        if self.config.kl.estimator == "full":
            assert new.kl is not None
            return new.kl
        return kl_estimate(self.config.kl.estimator, new.logprobs, batch.ref_logprobs)

    def _reward_kl_coef(self, kl_coef: float) -> float:
        """The price of a nat in the reward."""
        return kl_coef if self.config.kl.place == "reward" else 0.0

    def _shaped_score(self, batch: Batch, kl_coef: float) -> Tensor:
        """(B,) the score less the price of the whole response's KL."""
        return batch.score - self._reward_kl_coef(kl_coef) * masked_sum(batch.kl, batch.response_mask, dim=1)


class GroupAlgorithm(Algorithm):
    """One advantage a response, from the scores of its group."""

    config: GroupConfig

    def __init__(self, config: GroupConfig) -> None:
        super().__init__(config)
        self.group_size = config.group_size

    @abstractmethod
    def advantage(self, score: Tensor, valid: Tensor) -> Tensor:
        """(B,) of each response, from its score (B,); only `valid` (B,) bool ones count."""

    def estimate_advantages(self, batch: Batch, kl_coef: float) -> Batch:
        """`batch` with each token given its response's advantage."""
        mask = batch.response_mask
        advantage = self.advantage(self._shaped_score(batch, kl_coef), mask.any(1))
        return replace(batch, advantages=advantage[:, None] * mask)
