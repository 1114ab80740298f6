"""The samples as the report shows them: a prompt a row, each model's answer beside the others'."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from triplex.evaluation.shading import Piece, pieces

MAX_PROMPTS = 500  # that are looked at
MAX_CHARS = 1_000  # of a prompt or an answer
#: beside the reward and its parts, by column of the table of samples: what it is called, how it is told with the text
#: ("" where it is only sorted by), and its decimals
_MEASURED = {
    "sentiment": ("sentiment", "", 2),
    "improvement_pct": ("improvement", "improvement {} %", 1),
    "overlap": ("overlap", "overlap {}", 2),
    "repetition": ("repetition", "", 2),
    "num_tokens": ("length", "{} tokens", 0),
    "kl_nats": ("KL", "KL {}", 2),
    "word_nats": ("perplexity", "perplexity {}", 0),
}
_PART = "rewards/"
_SMALLEST_TOLD = 0.005


@dataclass(frozen=True)
class Score:
    """A number that answers are sorted by. `column` of the table of samples; word_nats are shown as perplexity."""

    column: str
    label: str
    told: str = ""
    digits: int = 2


@dataclass(frozen=True)
class Answer:
    """A response in pieces, and how many characters of it are left out; its scores by column, None where undefined;
    the parts of its reward that are not about 0, the largest first."""

    pieces: list[Piece]
    num_left_out: int
    scores: dict[str, float | None]
    parts: list[tuple[str, float]]


@dataclass(frozen=True)
class Row:
    """A prompt and each model's answer to it."""

    prompt: str
    answers: dict[str, Answer]


def scores(samples: pa.Table) -> list[Score]:
    """What each answer has: its reward, the reward's parts, and what else was measured."""
    parts = [
        Score(name, f"{name.removeprefix(_PART)}, a part of the reward")
        for name in samples.column_names
        if name.startswith(_PART)
    ]
    measured = [Score(name, *told) for name, told in _MEASURED.items() if name in samples.column_names]
    return [Score("reward", "reward"), *parts, *measured]


def side_by_side(samples: pa.Table) -> list[Row]:
    """The table of samples, a row a prompt, in the table's order; the first MAX_PROMPTS of them."""
    rows: dict[str, Row] = {}
    columns = [score.column for score in scores(samples)]
    first = samples["id"].unique()[:MAX_PROMPTS]
    for sample in samples.filter(pc.is_in(samples["id"], first)).to_pylist():
        row = rows.setdefault(sample["id"], Row(sample["prompt"], {}))
        row.answers[sample["model"]] = _answer(sample, columns)
    return list(rows.values())


def clip(text: str) -> str:
    """The beginning of a long text, and how much more there is."""
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]} … ({len(text) - MAX_CHARS:,} more characters)"


def _answer(sample: Mapping[str, Any], columns: list[str]) -> Answer:
    text, starts = sample["response"][:MAX_CHARS], [at for at in sample["token_starts"] if at < MAX_CHARS]
    shaded = list(pieces(text, starts, sample["token_nats"][: len(starts)]))
    found = {name: _finite(math.exp(sample[name]) if name == "word_nats" else sample[name]) for name in columns}
    parts = [
        (name.removeprefix(_PART), value)
        for name, value in found.items()
        if name.startswith(_PART) and value is not None and abs(value) >= _SMALLEST_TOLD
    ]
    parts.sort(key=lambda part: -abs(part[1]))
    return Answer(shaded, len(sample["response"]) - len(text), found, parts)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
