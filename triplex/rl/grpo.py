"""Group relative policy optimisation (arXiv 2402.03300): PPO's clipped loss with advantages from the group."""

from torch import Tensor

from triplex.rl.advantages import group_relative
from triplex.rl.algorithm import GroupAlgorithm, GroupConfig
from triplex.runs.params import described


class GRPOConfig(GroupConfig):
    """`grpo:` names as in the paper."""

    advantage_eps: float = described(
        "added to the group's standard deviation", unit="reward", source="arXiv 2402.03300", gt=0
    )


class GRPO(GroupAlgorithm):
    """How many standard deviations a response lies above its group's mean."""

    config: GRPOConfig

    def advantage(self, score: Tensor, valid: Tensor) -> Tensor:
        """(score - mean) / (std + eps), (B,)."""
        return group_relative(score, valid, self.group_size, self.config.advantage_eps)
