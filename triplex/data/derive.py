"""From a source to the five tables and their data card; the same rows in any order give the same bytes."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from pydantic import Field, model_validator

from triplex.data.card import data_card
from triplex.data.files import Record
from triplex.data.rows import Row, read_rows, words
from triplex.data.sources import Columns, FilesSource, LocalFile, Material, Source, Stream, file_stream, open_source
from triplex.data.splits import check_overlap, deduplicate, group_key, hash_fraction, split
from triplex.runs.errors import InputError
from triplex.runs.params import OrAbsent, Section, described

Table = list[dict[str, Any]]


class PreferenceFiles(Section):
    """`data.preferences:` files of prompt, chosen and rejected for the preference model, beside the source."""

    files: list[LocalFile] = described("read in this order", min_length=1)
    columns: Columns = Field(default={}, description="role: column, as in the source")


class DataConfig(Section):
    """`data:` the source and what is made of it."""

    source: Source
    prompt_words: int = described(
        "a text's first words are its prompt, the rest its completion", unit="words", ge=1, le=1000
    )
    min_completion_words: int = described("rows with a shorter completion are in the corpus alone", unit="words", ge=1)
    max_words: int = described("longer texts are cut after this many words", unit="words", ge=2)
    eval_frac: float = described("fraction of the prompts that is held out", unit="fraction of the prompts", gt=0, lt=1)
    num_eval_prompts: int = described("held-out prompts in the eval table, at most", unit="prompts", ge=1)
    preferences: OrAbsent[PreferenceFiles] = Field(default=None, description="else pairs of labelled rows")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.prompt_words + self.min_completion_words > self.max_words:
            raise ValueError("max_words is below prompt_words + min_completion_words: no row would be left")
        return self


@dataclass(frozen=True)
class Prepared:
    """The rows of each table by its name, and the data card."""

    tables: dict[str, Table]
    card: dict[str, Any]


def prepare(config: DataConfig, seed: int) -> Prepared:
    """Read the source and derive everything from it; `seed` is for embedded reviews.

    InputError for what is wrong in the source, and when either side of the split is left without a prompt.
    """
    counts: Counter[str] = Counter()
    ignored: set[str] = set()
    material = open_source(config.source, seed)
    rows = deduplicate(_read(material.train, config, counts, ignored), counts)
    if material.held_out is None:
        train, held_out = split(rows, config.eval_frac)
    else:
        train, held_out = rows, deduplicate(_read(material.held_out, config, counts, ignored), counts)
    check_overlap(train, held_out)
    tables = derive_tables(train, held_out, config.min_completion_words, config.num_eval_prompts)
    if not tables["prompts"] or not tables["eval"]:
        sides = f"{len(tables['prompts'])} training and {len(tables['eval'])} held-out prompts"
        remedy = "give more rows, raise data.eval_frac, or lower data.prompt_words or data.min_completion_words"
        raise InputError("data", f"{sides} from {len(train) + len(held_out)} rows", remedy)
    streams = [*material.train, *(material.held_out or [])]
    if config.preferences:
        pairs = _pairs(config.preferences)
        tables["preferences"] = _preference_table(deduplicate(_read(pairs, config, counts, ignored), counts))
        if not tables["preferences"]:
            remedy = "give rows of prompt, chosen and rejected; data.preferences.columns can name them"
            raise InputError("data.preferences", "no row with two different completions", remedy)
        streams += pairs
    facts = [stream.facts for stream in streams]
    card = data_card(config.model_dump(mode="json"), facts, counts, sorted(ignored), (train, held_out), tables)
    return Prepared(tables, card)


def check_files(config: DataConfig) -> None:
    """InputError for a file that is missing or another than its hash says, or a first row that `prepare` refuses."""
    material = open_source(config.source, seed=0) if isinstance(config.source, FilesSource) else Material([])
    pairs = _pairs(config.preferences) if config.preferences else []
    for stream in [*material.train, *(material.held_out or []), *pairs]:
        list(read_rows(islice(stream.records, 1), config.prompt_words, config.max_words, Counter()))


def _pairs(config: PreferenceFiles) -> list[Stream]:
    return [file_stream(file, config.columns) for file in config.files]


def _read(streams: list[Stream], config: DataConfig, counts: Counter[str], ignored: set[str]) -> list[Row]:
    rows: list[Row] = []
    for stream in streams:
        records = _noting_ignored(stream.records, ignored)
        found = list(read_rows(records, config.prompt_words, config.max_words, counts))
        if not found:
            raise InputError(stream.name, "no row with text", "check the file and data.source.columns")
        rows += found
    return rows


def _noting_ignored(records: Iterable[Record], ignored: set[str]) -> Iterator[Record]:
    for record in records:
        ignored.update(record.ignored)
        yield record


def derive_tables(
    train: list[Row], held_out: list[Row], min_completion_words: int, num_eval_prompts: int
) -> dict[str, Table]:
    """The five tables, each in the order of its ids.

    The evaluation prompts are the first by the hash of the prompt, so that a prompt with many rows is not likelier.
    """
    usable, candidates = (
        [row for row in rows if len(words(row.completion)) >= min_completion_words] for rows in (train, held_out)
    )
    questions = sorted(_one_per_prompt(candidates), key=lambda row: hash_fraction(group_key(row.prompt)))
    passages = [(row.text if row.passage is None else row.passage, row.label) for row in train]
    passages.sort(key=repr)  # of equal passages with other labels the same one stays, whatever the order of rows
    return {
        "corpus": _table((row_id(text), {"text": text, "label": label}) for text, label in passages),
        "sft": _table((row_id(row.text), _completed(row)) for row in usable),
        "prompts": _table((row_id(row.prompt), _asked(row)) for row in _one_per_prompt(usable)),
        "preferences": _preference_table(train, usable),
        "eval": _table((row_id(row.text), _completed(row) | _asked(row)) for row in questions[:num_eval_prompts]),
    }


def row_id(*texts: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the texts, a NUL (which no text holds) between them."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _table(rows: Iterable[tuple[str, dict[str, Any]]]) -> Table:
    by_id = dict(rows)
    return [{"id": name, **by_id[name]} for name in sorted(by_id)]


def _completed(row: Row) -> dict[str, Any]:
    return {"prompt": row.prompt, "completion": row.completion, "label": row.label}


def _asked(row: Row) -> dict[str, Any]:
    return {"prompt": row.prompt, "reference": row.completion if row.reference is None else row.reference}


def _one_per_prompt(rows: Iterable[Row]) -> list[Row]:
    """The row with the smallest id of each group of rows with the same prompt."""
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row_id(row.text), reverse=True):
        first[group_key(row.prompt)] = row
    return list(first.values())


def _preference_table(rows: Iterable[Row], labelled: Iterable[Row] = ()) -> Table:
    """The given pairs of `rows`, then pairs of `labelled` rows of the same prompt: the n-th positive by id, chosen,
    with the n-th negative, so that each row is in one pair at most."""
    pairs = [(row.prompt, row.completion, row.rejected) for row in rows if row.rejected is not None]
    by_prompt: dict[str, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for row in sorted(labelled, key=lambda row: row_id(row.text)):
        if row.label is not None and row.rejected is None:
            by_prompt[row.prompt][row.label].append(row)
    for prompt, (negative, positive) in by_prompt.items():
        pairs += [
            (prompt, chosen.completion, worse.completion) for worse, chosen in zip(negative, positive, strict=False)
        ]
    return _table((row_id(*pair), dict(zip(("prompt", "chosen", "rejected"), pair, strict=True))) for pair in pairs)
