"""What goes wrong in training without an error, told in words with a remedy while there is time to stop.

A check is a function of the metric rows so far, oldest first, one a step: a message, or None where all is well.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[dict[str, Any]]
Check = Callable[[Rows], str | None]

WINDOW = 5  # steps in a mean at the start and at the end of the rows: one noisy step warns nobody
KL_FACTOR = 2.0  # of the target: the adaptive coefficient overshoots to one and a half in runs that end well
MIN_ENTROPY = 0.05  # nats: the likeliest token has a probability of about 0.99, so samples hardly differ
ENTROPY_FRAC = 0.1  # of the entropy at the start; runs that end well keep two fifths and more
LENGTH_CHANGE = 0.5  # of the length at the start; runs that end well move by up to two fifths
HACKING_WINDOW = 10  # steps: parts of the reward are noisier than the other metrics
HACKING_ERRORS = 4.0  # standard errors of the difference that count as a change: noise does that once in 2,000 looks
HACKING_FRAC = 0.25  # of the total's gain that the perplexity part has to lose; below it is a fair trade
NUM_EQUAL_STEPS = 3  # steps without any gradient that are no accident
NUM_IDLE_STEPS = 10  # steps, after the first, without one clipped token
MAX_CLIP_RATIO = 0.5  # where most tokens are clipped, most of the batch teaches nothing
REST_STEPS = 10  # a kind that was quiet for so long counts as gone; a value at its threshold warns once


def kl_above_target(rows: Rows) -> str | None:
    """The mean KL is far above the target, where there is one."""
    last = rows[-WINDOW:]
    if len(last) < WINDOW or last[0]["kl_target"] is None:
        return None
    kl, target = _mean(last, "kl"), _mean(last, "kl_target")
    if kl <= KL_FACTOR * target:
        return None
    return (
        f"KL {kl:.3g} nats per token over the last {WINDOW} steps, the target is {target:.3g}: "
        "raise train.kl_coef, or lower the learning rate"
    )


def entropy_collapse(rows: Rows) -> str | None:
    """The policy has almost stopped to explore, in itself or against its start."""
    rows = [row for row in rows if row["entropy"] > 0]  # 0 where no token counted: in DAPO, when all groups agree
    if len(rows) < WINDOW:
        return None
    remedy = "raise entropy_coef, train.kl_coef or train.temperature, or lower the learning rate"
    start, now = _mean(rows[:WINDOW], "entropy"), _mean(rows[-WINDOW:], "entropy")
    if now < MIN_ENTROPY:
        return f"entropy {now:.2g} nats per token: the samples of a prompt hardly differ; {remedy}"
    if now < ENTROPY_FRAC * start:
        return f"entropy {now:.2g} nats per token, at the start {start:.2g}: the policy has collapsed; {remedy}"
    return None


def perplexity_sold(rows: Rows) -> str | None:
    """The total has risen and its perplexity part has clearly fallen since the start."""
    name = "rewards/perplexity"
    if len(rows) < 2 * HACKING_WINDOW or name not in rows[0]:
        return None
    (gain, gain_error), (change, change_error) = _change(rows, "reward"), _change(rows, name)
    clear = gain > HACKING_ERRORS * gain_error and -change > HACKING_ERRORS * change_error
    if not clear or -change < HACKING_FRAC * gain:
        return None
    return (
        f"reward up by {gain:.2g}, its perplexity part down by {-change:.2g} since the start: the other parts may pay "
        "for text that no human writes; read the completions, raise reward.perplexity.weight or train.kl_coef"
    )


def equal_rewards(rows: Rows) -> str | None:
    """In no group do the rewards differ, so no response is better than another."""
    last = rows[-NUM_EQUAL_STEPS:]
    if len(last) < NUM_EQUAL_STEPS or any(_teaches(row) for row in last):
        return None
    return (
        f"within every group all rewards were equal for {NUM_EQUAL_STEPS} steps, so nothing is learnt: take a reward "
        "with finer steps, a higher train.temperature, more responses a prompt, or prompts that are less easy or hard"
    )


def length_drift(rows: Rows) -> str | None:
    """Responses have become much longer or shorter."""
    name = "completions/mean_length"
    if len(rows) < 2 * WINDOW:
        return None
    start, now = _mean(rows[:WINDOW], name), _mean(rows[-WINDOW:], name)
    if abs(now - start) <= LENGTH_CHANGE * start:
        return None
    return (
        f"responses of {now:.3g} tokens, at the start {start:.3g}: does the reward pay for length? give it a length "
        "part, raise that part's weight, or set aggregation to constant"
    )


def never_ends(rows: Rows) -> str | None:
    """No response comes to an end by itself."""
    if len(rows) < WINDOW or any(row["completions/terminated_frac"] > 0 for row in rows[-WINDOW:]):
        return None
    return (
        f"no response of the last {WINDOW} steps ended by itself: raise train.max_new_tokens, or train the SFT model "
        "on texts that end with the end-of-text token"
    )


def clip_idle(rows: Rows) -> str | None:
    """Nothing was ever clipped. Late in a run that is the decay of the learning rate, so once is enough."""
    later = [row for row in rows[1:] if _teaches(row)]
    if len(later) < NUM_IDLE_STEPS or any(row["clip_ratio"] > 0 for row in later):
        return None
    return (
        f"no token was clipped in {len(later)} steps: the policy hardly moves within a step; raise the learning "
        "rate or num_epochs"
    )


def clip_high(rows: Rows) -> str | None:
    """Most tokens are clipped."""
    if len(rows) < WINDOW or (ratio := _mean(rows[-WINDOW:], "clip_ratio")) <= MAX_CLIP_RATIO:
        return None
    return (
        f"{ratio:.0%} of the tokens were clipped over the last {WINDOW} steps and taught nothing: lower the learning "
        "rate or num_epochs"
    )


CHECKS: tuple[Check, ...] = (
    kl_above_target, entropy_collapse, perplexity_sold, equal_rewards, length_drift, never_ends, clip_idle, clip_high,
)  # fmt: skip


@dataclass(frozen=True)
class HealthWarning:
    """What a check, `kind` by name, had to say after `step`."""

    step: int
    kind: str
    text: str


class Health:
    """What the checks had to say of a training so far: `warnings`, the oldest first.

    A kind warns once, and again only when it comes back after `REST_STEPS` quiet steps. The rows alone decide, so the
    warnings of a resumed run, and of one that is read from its file, are those of an uninterrupted one.
    """

    def __init__(self, num_descents: int, rows: Rows) -> None:
        """Of the `rows` there are; `num_descents` is the number of optimiser steps that a batch gets."""
        # with one descent a batch the policy is the one that sampled it: nothing can be clipped
        self._checks = [check for check in CHECKS if not (num_descents == 1 and check is clip_idle)]
        self._last_seen: dict[str, int] = {}
        self.warnings: list[HealthWarning] = []
        for num in range(1, len(rows) + 1):
            self.look(rows[:num])

    def look(self, rows: Rows) -> list[HealthWarning]:
        """What is new after the last of `rows`."""
        step, found = rows[-1]["step"], []
        for check in self._checks:
            if text := check(rows):
                kind = check.__name__
                if kind not in self._last_seen or step - self._last_seen[kind] > REST_STEPS:
                    found.append(HealthWarning(step, kind, text))
                self._last_seen[kind] = step
        self.warnings += found
        return found


def _teaches(row: dict[str, Any]) -> bool:
    """Whether the rewards differ in a group; so they do where there are no groups."""
    return row.get("frac_reward_zero_std", 0.0) < 1


def _mean(rows: Rows, name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def _change(rows: Rows, name: str) -> tuple[float, float]:
    """How much the mean of the last steps lies above that of the first ones, and its standard error."""
    first, last = ([row[name] for row in part] for part in (rows[:HACKING_WINDOW], rows[-HACKING_WINDOW:]))
    error = math.sqrt((statistics.variance(first) + statistics.variance(last)) / HACKING_WINDOW)
    return statistics.fmean(last) - statistics.fmean(first), error
