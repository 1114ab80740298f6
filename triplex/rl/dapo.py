"""DAPO (arXiv 2503.14476): GRPO that clips higher, counts tokens alike, and learns only where a group disagrees."""

from dataclasses import replace

from triplex.rl.batch import Batch
from triplex.rl.grpo import GRPO, GRPOConfig
from triplex.runs.params import described


class DAPOConfig(GRPOConfig):
    """`dapo:` names as in the paper, whose `aggregation` is `token`."""

    clip_range_high: float = described("how far above 1 a ratio pays", source="arXiv 2503.14476", gt=0)


class DAPO(GRPO):
    """GRPO's advantage; groups of equal scores leave the batch, and with it the mean over tokens.

    Of the paper's dynamic sampling this is the filter; it does not sample again to fill the batch.
    """

    config: DAPOConfig

    def estimate_advantages(self, batch: Batch, kl_coef: float) -> Batch:
        """`batch` with each token given its response's advantage, without the groups that agree."""
        batch = super().estimate_advantages(batch, kl_coef)
        assert batch.advantages is not None
        disagrees = (batch.advantages != 0).any(1).view(-1, self.group_size).any(1)
        kept = disagrees.repeat_interleave(self.group_size)
        return replace(batch, response_mask=batch.response_mask & kept[:, None])
