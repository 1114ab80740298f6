"""Which rows train and which are held out: decided by its prompt alone, so more rows never move the old ones."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

from triplex.data.rows import Row, words
from triplex.runs.errors import InputError


def group_key(prompt: str) -> str:
    """The casefolded words of `prompt`: rows that share them are trained on, or held out, together."""
    return " ".join(words(prompt)).casefold()


def hash_fraction(key: str) -> float:
    """A number in [0, 1) from the SHA-256 of `key`, uniform over keys."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def split(rows: Iterable[Row], eval_frac: float) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows): held out is about `eval_frac` of the prompts."""
    sides: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        sides[hash_fraction(group_key(row.prompt)) < eval_frac].append(row)
    return sides


def deduplicate(rows: Iterable[Row], counts: Counter[str]) -> list[Row]:
    """One row per text, compared by casefolded words (per text and rejected completion, where there are any).

    The order of `rows` does not matter. `counts` takes how many are gone. A text labelled both ways loses its label,
    a text with several prompts keeps the shortest.
    """
    by_text: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_text[group_key(row.text)].append(row)
    distinct = []
    for same in by_text.values():
        shortest = min(
            same,
            key=lambda row: (len(group_key(row.prompt)), row.text, row.prompt, row.reference or "", row.passage or ""),
        )
        labels = {row.label for row in same} - {None}
        label = labels.pop() if len(labels) == 1 else None
        counts["conflicting_labels"] += len(labels) > 1
        rejected = {row.rejected for row in same if row.prompt == shortest.prompt and row.rejected is not None}
        kept = [replace(shortest, label=label, rejected=worse) for worse in sorted(rejected) or (None,)]
        counts["duplicates"] += len(same) - len(kept)
        distinct += kept
    return distinct


def check_overlap(train: Iterable[Row], held_out: Iterable[Row]) -> None:
    """InputError when a held-out text or prompt, compared by casefolded words, is among the training rows."""
    train = list(train)
    texts, prompts = {group_key(row.text) for row in train}, {group_key(row.prompt) for row in train}
    held_out = list(held_out)
    same_text = [row.text for row in held_out if group_key(row.text) in texts]
    same_prompt = [row.prompt for row in held_out if group_key(row.prompt) in prompts]
    if same_text or same_prompt:
        examples = ", ".join(repr(example[:60]) for example in (same_text or same_prompt)[:3])
        raise InputError(
            "training and evaluation rows",
            f"{len(same_text)} of {len(held_out)} texts and {len(same_prompt)} prompts are in both, e.g. {examples}",
            "take them out of one side, or leave eval_files out: the split then goes by prompt",
        )
