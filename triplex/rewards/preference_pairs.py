"""Which preference pairs train a model, and which are held out to measure it."""

from collections.abc import Mapping, Sequence
from typing import Any

from triplex.data.splits import group_key, hash_fraction
from triplex.rewards.preference import PreferenceConfig, TrainedPreference
from triplex.runs.errors import InputError

PAIRS = "data/processed/preferences.parquet"
Pair = Mapping[str, Any]  # a row of the preferences table: prompt, chosen, rejected


def held_out(config: PreferenceConfig, rows: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """(training pairs, held-out pairs), without those whose sides are equal; a given model was trained on none.

    The hash of its prompt decides where a pair goes, so that no prompt is on both sides. It is another hash than the
    one by which the evaluation prompts are held out: these are gone from `rows`, and with them all of its low values.
    InputError for a blank text, and for a model that is to be trained when either side is empty.
    """
    for number, row in enumerate(rows):
        if blank := [name for name in ("prompt", "chosen", "rejected") if not row[name].strip()]:
            raise InputError(f"{PAIRS} row {number}", f"{blank[0]} is blank", "delete the row, or write the text")
    if not isinstance(config.model, TrainedPreference):
        return [], [row for row in rows if not is_tie(row)]
    sides: tuple[list[Pair], list[Pair]] = [], []
    for row in rows[: config.model.num_pairs]:
        if not is_tie(row):
            key = f"preference {group_key(row['prompt'])}"
            sides[hash_fraction(key) < config.model.holdout_frac].append(row)
    if not all(sides):
        num_prompts = len({group_key(row["prompt"]) for row in rows})
        rows_of = f"{len(rows)} rows of {num_prompts} prompts"
        what = f"{len(sides[0])} training and {len(sides[1])} held-out pairs that differ, from {rows_of}"
        more = "give pairs of more prompts (data.preferences, or texts that begin differently, data.prompt_words)"
        raise InputError(PAIRS, what, f"{more}, or change reward.preference.model.holdout_frac")
    return sides


def is_tie(row: Pair) -> bool:
    """Whether there is nothing to prefer."""
    return bool(row["chosen"] == row["rejected"])
