"""REINFORCE++ (arXiv 2501.03262): discounted rewards to go, whitened over the batch; or over a group's mean."""

from dataclasses import replace

from triplex.rl.advantages import group_centred, returns_to_go, token_rewards
from triplex.rl.algorithm import Algorithm, AlgorithmConfig
from triplex.rl.batch import Batch
from triplex.rl.masked import whiten
from triplex.runs.params import described


class ReinforcePPConfig(AlgorithmConfig):
    """`reinforce_pp:` names as in the paper."""

    group_size: int = described(
        "responses a prompt; above 1 the group's mean is the baseline",
        unit="responses",
        source="arXiv 2501.03262",
        ge=1,
    )
    gamma: float = described("discount of a later token", source="arXiv 2501.03262", ge=0, le=1)


class ReinforcePP(Algorithm):
    """What a token is still going to earn, against the whole batch."""

    config: ReinforcePPConfig

    def __init__(self, config: ReinforcePPConfig) -> None:
        super().__init__(config)
        self.group_size = config.group_size

    def estimate_advantages(self, batch: Batch, kl_coef: float) -> Batch:
        """`batch` with whitened advantages; with a group, the score counts from the group's mean."""
        c, mask, score = self.config, batch.response_mask, batch.score
        if self.group_size > 1:
            score = group_centred(score, mask.any(1), self.group_size)
        rewards = token_rewards(score, batch.kl, mask, self._reward_kl_coef(kl_coef))
        return replace(batch, advantages=whiten(returns_to_go(rewards, mask, c.gamma), mask))
