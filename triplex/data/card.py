"""The data card: what was read, what was kept and what the tables hold; the same data give the same card."""

from collections import Counter
from statistics import median
from typing import Any

from triplex.data.rows import Row, words

#: what is counted on the way from records to tables, in the order of the card, and how the summary says it
COUNTS = {
    "read": "rows read",
    "empty": "rows without text skipped",
    "long_prompts": "rows skipped: the prompt alone has data.max_words words",
    "truncated": "rows cut at data.max_words words",
    "line_separators": "line or paragraph separators (U+2028, U+2029) made spaces",
    "equal_pairs": "preference pairs dropped: chosen and rejected are equal",
    "duplicates": "duplicate rows removed",
    "conflicting_labels": "texts labelled both ways: label removed",
    "short": "rows in the corpus alone: the completion is shorter than data.min_completion_words",
}


def data_card(
    parameters: dict[str, Any],
    sources: list[dict[str, Any]],
    counts: Counter[str],
    ignored_columns: list[str],
    sides: tuple[list[Row], list[Row]],
    tables: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    """A JSON value: parameters, sources with SHA-256, counts, labels, words, prompts, sizes of split and tables.

    `sides` are the training and held-out rows after duplicates were removed; `words` speaks of both.
    """
    rows = [row for side in sides for row in side]
    texts = [words(row.text) for row in rows]
    labels = Counter(row.label for row in rows)
    counts = counts + Counter(short=len(tables["corpus"]) - len(tables["sft"]))
    return {
        "parameters": parameters,
        "sources": sources,
        "counts": {**{name: counts[name] for name in COUNTS}, "kept": len(rows)},
        "ignored_columns": ignored_columns,
        "labels": {"positive": labels[1], "negative": labels[0], "unknown": labels[None]},
        "words": {
            "median": median(map(len, texts)),
            "max": max(map(len, texts)),
            "vocabulary": len({word.casefold() for text in texts for word in text}),
        },
        "split": {"train": len(sides[0]), "held_out": len(sides[1])},
        "prompts": {"train": len(tables["prompts"]), "eval": len(tables["eval"])},
        "tables": {name: len(table) for name, table in tables.items()},
    }


def summary(card: dict[str, Any]) -> str:
    """A few lines for the terminal: sizes, balance, and a warning line for each thing that was changed or dropped."""
    counts, labels, length = card["counts"], card["labels"], card["words"]
    tables = ", ".join(f"{name} {size:,}" for name, size in card["tables"].items())
    warnings = [f"warning: {counts[name]:,} {COUNTS[name]}" for name in COUNTS if name != "read" and counts[name]]
    if card["ignored_columns"]:
        warnings.append(f"warning: columns not read: {', '.join(card['ignored_columns'])}")
    return "\n".join(
        [
            f"prepare: {counts['read']:,} rows read, {counts['kept']:,} kept",
            f"tables: {tables}",
            f"labels: {labels['positive']:,} positive, {labels['negative']:,} negative, {labels['unknown']:,} unknown",
            f"words: median {length['median']:g}, at most {length['max']:,}, vocabulary {length['vocabulary']:,}",
            *warnings,
        ]
    )
