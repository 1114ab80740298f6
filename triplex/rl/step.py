"""A step of training on its way: what was sampled, how it scored, and how far the policy has learnt from it.

Legend: B sequences, P prompt.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from triplex.rewards.contract import RewardOutput
from triplex.rl.batch import Batch
from triplex.rl.rollout import Responses


class Rollout(NamedTuple):
    """What a policy answered: of each response its prompt's number and tokens, the response itself, and its text."""

    rows: list[int]
    prompt_ids: Tensor  # (B, P)
    prompt_mask: Tensor  # (B, P) bool
    responses: Responses
    texts: list[str]
    ids: list[list[int]]


class Sampled(NamedTuple):
    """A rollout and what it earned."""

    rollout: Rollout
    scored: Batch
    rewards: RewardOutput


@dataclass
class Place:
    """Where a run stands: `step` steps are done, and of the next one what stands here."""

    step: int = 0
    sampled: Sampled | None = None
    descents: int = 0  # optimiser steps on what was sampled
    sums: dict[str, float] = field(default_factory=dict)  # over them, of what entered the loss
