"""Where the raw text comes from: embedded reviews or stories, files or the Hugging Face hub, as records by role."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from triplex.data.files import BATCH_ROWS, Record, arrow_records, open_file
from triplex.data.reviews import generate_reviews
from triplex.data.rows import LABELS, ROLES, Role
from triplex.data.stories import generate_stories
from triplex.runs.errors import InputError
from triplex.runs.params import OrAbsent, Section, described, nearest

Columns = dict[Role, Annotated[str, Field(min_length=1)]]


class EmbeddedSource(Section):
    """`kind: embedded`: short reviews that are generated from the seed."""

    kind: Literal["embedded"]
    num_reviews: int = described("reviews to generate", unit="reviews", ge=1)


class StoriesSource(Section):
    """`kind: stories`: synopsis, plan and continuation of short stories that are generated from the seed."""

    kind: Literal["stories"]
    num_stories: int = described("stories to generate", unit="stories", ge=1)


class LocalFile(Section):
    """One local file. Its hash is a parameter, so that another content is another run and none goes unnoticed."""

    path: str = Field(min_length=1, description="relative to the project, or absolute")
    label: OrAbsent[Literal[0, 1]] = Field(default=None, description="the label of every row")
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="of a .csv file")
    format: OrAbsent[Literal["txt", "csv", "json", "jsonl", "parquet"]] = Field(
        default=None, description="else by its ending"
    )
    sha256: OrAbsent[str] = Field(default=None, description="what the file must hash to; the error without it tells it")


class FilesSource(Section):
    """`kind: files`: local files; with `eval_files`, those alone are held out."""

    kind: Literal["files"]
    files: list[LocalFile] = described("read in this order", min_length=1)
    eval_files: list[LocalFile] = Field(default=[], description="separate evaluation files instead of a split")
    columns: Columns = Field(default={}, description="role: column, all that are read; else columns named as roles")
    licence: OrAbsent[str] = Field(default=None, description="a note for the data card")


class HubSource(Section):
    """`kind: hub`: a data set of the Hugging Face hub, or a local folder laid out as one."""

    kind: Literal["hub"]
    name: str = Field(min_length=1, description="org/dataset, or a folder")
    config: OrAbsent[str] = Field(default=None, description="the data set's configuration")
    revision: OrAbsent[str] = Field(default=None, description="commit or tag; pins what is downloaded")
    split: str = Field(min_length=1, description="e.g. train, or train[:1000]")
    columns: Columns = Field(default={}, description="role: column, all that are read; else columns named as roles")
    licence: OrAbsent[str] = Field(default=None, description="a note for the data card")


Source = Annotated[
    EmbeddedSource | StoriesSource | FilesSource | HubSource,
    Field(discriminator="kind", description="where the texts come from"),
]


@dataclass(frozen=True)
class Stream:
    """Records from one place, their values by role, and the facts about the place for the data card."""

    name: str
    facts: dict[str, Any]
    records: Iterator[Record]


@dataclass(frozen=True)
class Material:
    """All streams of a source; `held_out` is None when the split is left to the prompts."""

    train: list[Stream]
    held_out: list[Stream] | None = None


def open_source(source: Source, seed: int) -> Material:
    """The streams of `source`; every file is examined before the first record of any is read. `seed` is for the
    embedded ones."""
    match source:
        case EmbeddedSource():
            return Material([_reviews(source.num_reviews, seed)])
        case StoriesSource():
            return Material([_stories(source.num_stories, seed)])
        case FilesSource():
            train = [file_stream(file, source.columns) for file in source.files]
            return Material(train, [file_stream(file, source.columns) for file in source.eval_files] or None)
        case HubSource():
            return Material([_hub_stream(source)])


def _reviews(num_reviews: int, seed: int) -> Stream:
    reviews = enumerate(generate_reviews(num_reviews, seed), start=1)
    name = "embedded reviews"
    records = (Record(name, "review", number, {"text": r.text, "label": r.label}) for number, r in reviews)
    return Stream(name, {"name": name}, records)


def _stories(num_stories: int, seed: int) -> Stream:
    stories = enumerate(generate_stories(num_stories, seed), start=1)
    name = "embedded stories"
    records = (
        Record(
            name, "story", number, {"prompt": s.prompt, "completion": s.plan, "reference": s.reference, "text": s.text}
        )
        for number, s in stories
    )
    return Stream(name, {"name": name}, records)


def file_stream(file: LocalFile, columns: Columns) -> Stream:
    """The records of one file by role; InputError unless its SHA-256 is the given one."""
    found = open_file(Path(file.path), file.delimiter, file.format and f".{file.format}")
    if file.sha256 is None:
        remedy = f"add to its entry in params.yaml: sha256: {found.sha256}"
        raise InputError(file.path, "no sha256 is given, so that a change of the file would go unnoticed", remedy)
    if file.sha256 != found.sha256:
        remedy = f"restore the file, or accept it: sha256: {found.sha256}"
        raise InputError(file.path, f"SHA-256 is not {file.sha256}", remedy)
    constant = {} if file.label is None else {"label": file.label}
    facts = {"name": file.path, "sha256": found.sha256, "bytes": found.num_bytes}
    return Stream(file.path, facts, (by_role(record, columns, **constant) for record in found.records()))


def by_role(record: Record, columns: Columns, **constant: Any) -> Record:
    """`record` with its values keyed by role: the columns that `columns` names, else those named as a role.

    `constant` values take the place of a column.
    """
    names: Columns = columns or {role: role for role in ROLES if role in record.values}
    values: dict[str, Any] = dict(constant)
    for role, name in names.items():
        if name not in record.values:
            what = f"no column {name!r}, which data.source.columns names for {role}"
            raise InputError(record.where, what, nearest(name, record.values))
        values.setdefault(role, record.values[name])
    used = {*names.values(), *constant}
    ignored = tuple(name for name in record.values if name not in used)
    return replace(record, values=values, ignored=ignored)


def _hub_stream(source: HubSource) -> Stream:
    dataset = _load_dataset(source)
    names = _class_labels(dataset.features, source.columns)

    def records() -> Iterator[Record]:
        batches = (batch for table in dataset.with_format("arrow").iter(BATCH_ROWS) for batch in table.to_batches())
        try:
            for record in arrow_records(f"{source.name} {source.split}", batches):
                row = by_role(record, source.columns)
                yield replace(row, values={**row.values, "label": names[row.values["label"]]}) if names else row
        except pa.ArrowInvalid as error:
            raise InputError(source.name, str(error).splitlines()[0], "mend the data set's text") from error

    digest = hashlib.sha256()
    for record in records():
        digest.update(json.dumps(record.values, sort_keys=True, default=str).encode())
    return Stream(source.name, {"name": source.name, "sha256": digest.hexdigest()}, records())


def _load_dataset(source: HubSource) -> Any:
    import datasets  # slow to import, needed for this kind only

    try:
        return datasets.load_dataset(source.name, source.config, split=source.split, revision=source.revision)
    except ConnectionError as error:
        remedy = "connect to the network, or download it once and give its folder or files as the source"
        raise InputError(f"hub data set {source.name}", str(error), remedy) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        remedy = "see name, config, revision and split of data.source; data sets that need code are not run"
        raise InputError(f"hub data set {source.name}", str(error).splitlines()[0], remedy) from error


def _class_labels(features: Any, columns: Columns) -> dict[int | None, str | None]:
    """The names of a label column of classes when they say which is positive: their numbers may be either way round.

    -1 is the hub's habit for "no label".
    """
    feature = features.get(columns.get("label", "" if columns else "label"))
    known = getattr(feature, "names", [])
    if not known or any(name.casefold() not in LABELS for name in known):
        return {}
    return {None: None, -1: None, **dict(enumerate(known))}
