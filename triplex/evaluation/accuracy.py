"""How often the models of the reward are right on what was held out, and whether that is better than guessing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import binomtest

from triplex.evaluation.statistics import CONFIDENCE
from triplex.rewards.preference import PreferenceConfig
from triplex.rewards.preference_pairs import Pair, held_out


class Accuracy(NamedTuple):
    """The share of `num` texts or pairs that a model gets right, with its interval (Wilson 1927) at CONFIDENCE."""

    share: float
    low: float
    high: float
    num: int
    guessing: float  # the share that is right by naming the commoner label every time; of pairs, half

    @property
    def beats_guessing(self) -> bool:
        """Whether the whole interval lies above it."""
        return self.low > self.guessing


def accuracies(
    shares: Mapping[str, float], labels: Sequence[int | None], preference: PreferenceConfig | None,
    pairs: Sequence[Pair],
) -> dict[str, Accuracy]:  # fmt: skip
    """By part of the reward, from the `shares` in reward.json and the tables on which the stage measured them:
    `labels` of the held-out texts, all `pairs` of the preferences table.
    """
    known = [label for label in labels if label is not None]
    found = {}
    for part, share in shares.items():
        if part == "sentiment":
            num, positive = len(known), sum(known) / len(known)
            guessing = max(positive, 1 - positive)
        else:
            assert preference, "the preference model has been measured"
            num, guessing = len(held_out(preference, pairs)[1]), 0.5
        low, high = binomtest(round(share * num), num).proportion_ci(CONFIDENCE, method="wilson")
        found[part] = Accuracy(share, float(low), float(high), num, guessing)
    return found
