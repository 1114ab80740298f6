"""Proximal policy optimisation (arXiv 1707.06347) for text: KL-shaped rewards, GAE, clipped policy and value loss."""

from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from triplex.models.policy import TokenOutputs
from triplex.rl.advantages import gae, token_rewards
from triplex.rl.algorithm import Algorithm, AlgorithmConfig
from triplex.rl.batch import Batch
from triplex.rl.losses import value_loss
from triplex.rl.masked import whiten
from triplex.runs.params import OrAbsent, Section, described


class ValueConfig(Section):
    """`value:` what estimates the return: a head on the policy's trunk, or a network of its own."""

    kind: Literal["head", "network", "reward_model"] = Field(
        description="head: starts at 0; network: the SFT model's trunk, head at 0; reward_model: the preference model"
    )
    learning_rate: OrAbsent[float] = Field(default=None, gt=0, le=1, description="its own; else the policy's")


class PPOConfig(AlgorithmConfig):
    """`ppo:` names as in the papers."""

    value: ValueConfig
    value_coef: float = described("of the value loss in the whole", source="arXiv 1707.06347", ge=0)
    value_clip_range: float = described(
        "how far a value may move from the one at sampling before its gradient is cut",
        unit="reward",
        source="github.com/openai/baselines, ppo2",
        gt=0,
    )
    gamma: float = described("discount of a later token", source="arXiv 1506.02438", ge=0, le=1)
    gae_lambda: float = described("1: returns alone; 0: one token ahead", source="arXiv 1506.02438", ge=0, le=1)
    whiten_rewards: bool = described(
        "scale the shaped rewards to variance 1, their mean kept", source="arXiv 1909.08593"
    )


class PPO(Algorithm):
    """An advantage for each token, from a value function."""

    uses_values = True
    config: PPOConfig

    def estimate_advantages(self, batch: Batch, kl_coef: float) -> Batch:
        """`batch` with returns, taken before whitening, and whitened advantages."""
        assert batch.values is not None
        c, mask = self.config, batch.response_mask
        rewards = token_rewards(batch.score, batch.kl, mask, self._reward_kl_coef(kl_coef))
        if c.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, batch.values, mask, c.gamma, c.gae_lambda)
        return replace(batch, advantages=whiten(advantages, mask), returns=returns)

    def loss(self, new: TokenOutputs, batch: Batch, kl_coef: float) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss of each token (B, R), its parts for the log): the clipped policy loss and the value's."""
        assert new.values is not None
        assert batch.values is not None
        assert batch.returns is not None
        policy, parts = super().loss(new, batch, kl_coef)
        value = value_loss(new.values, batch.values, batch.returns, self.config.value_clip_range)
        return policy + self.config.value_coef * value, parts | {"value_loss": value}
