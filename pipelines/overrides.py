"""`key=value` written into params.yaml, its comments and layout kept."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from pipelines.check import check_params
from pipelines.schema import check_schema
from triplex.runs.errors import InputError
from triplex.runs.files import atomic_path
from triplex.runs.params import PARAMS_FILE, load_yaml, nearest, parse_yaml


@dataclass(frozen=True)
class Change:
    """A key of params.yaml whose value differs; None where it is absent."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {shown(self.old)} -> {shown(self.new)}"


def parse(assignments: list[str]) -> dict[str, Any]:
    """`["ppo.learning_rate=1e-5"]` as keys and values; a value is YAML 1.2. InputError for a mistake."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"-S {assignment}", "not key=value", "for example: -S ppo.learning_rate=1e-5")
        try:
            values[key] = parse_yaml(text)
        except (YAMLError, ValueError) as error:  # as in a file: an impossible date
            reason = (getattr(error, "problem", None) or str(error)).partition("\n")[0]
            what = f"the value is not YAML ({reason})"
            raise InputError(f"-S {assignment[:80]}", what, "quote it: -S 'key=\"text\"'") from error
    return values


def check(values: dict[str, Any], path: Path = PARAMS_FILE) -> None:
    """InputError, at once, for a key that params.yaml does not have or a value that the schema refuses."""
    document, _ = _assigned(values, path)
    check_schema(document)


def apply(values: dict[str, Any], path: Path = PARAMS_FILE) -> None:
    """Write the values over the keys of params.yaml that they name; the file changes only if it is then valid.

    InputError for a key that the file does not have, or a value that its stage does not take.
    """
    if values:
        document, layout = _assigned(values, path)
        write_document(document, layout, path)


def read_document(path: Path) -> tuple[Any, YAML]:
    """A params file with its comments, and the writer that keeps its quotes and indentation."""
    load_yaml(path)  # its errors are the better told ones
    layout = YAML(typ="rt", pure=True)
    layout.preserve_quotes, layout.width = True, 4096
    document, indent, offset = load_yaml_guess_indent(path.read_text(encoding="utf-8"), yaml=layout)
    if offset is not None:
        layout.indent(sequence=indent, offset=offset)
    return document, layout


def write_document(document: Any, layout: YAML, path: Path = PARAMS_FILE) -> None:
    """Write the document as params.yaml, atomically and only if every stage accepts it; else InputError.

    What stands between two sections is taken from the file: ruamel keeps it with the value before it, and loses it
    where another takes that one's place.
    """
    dumped = StringIO()
    layout.dump(document, dumped)
    with atomic_path(path) as temporary:
        temporary.write_text(spliced(path.read_text(encoding="utf-8"), dumped.getvalue()), encoding="utf-8")
        try:
            check_params(temporary)
        except InputError as error:
            what = f"{error.where}: {error.what}".replace(str(temporary), str(path)).removeprefix(f"{path}: ")
            raise InputError(path, f"left as it was: {what}", error.remedy) from None


def differences(old: Any, new: Any) -> list[Change]:
    """What makes `new` of `old`, in the order of `new`."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [
        Change(key, before.get(key), after.get(key)) for key in {**after, **before} if before.get(key) != after.get(key)
    ]


def spliced(text: str, new: str) -> str:
    """`text` with the sections of `new`, each where it stood, or at the end."""
    lines, new_lines = text.splitlines(keepends=True), new.splitlines(keepends=True)
    places, new_places = _places(lines), _places(new_lines)
    for section, place in reversed(places.items()):  # from the end, so that the places before it hold
        if section in new_places:
            lines[place] = new_lines[new_places[section]]
    for section, place in new_places.items():
        if section not in places:
            lines += ["\n", *new_lines[place]]
    return "".join(lines)


def _places(lines: list[str]) -> dict[str, slice]:
    """The lines of each section, from its key to its last value; blank lines and comments between two are neither's."""
    document = YAML(typ="rt", pure=True).load("".join(lines))
    starts = [document.lc.key(section)[0] for section in document]
    places = {}
    for section, start, end in zip(document, starts, [*starts[1:], len(lines)], strict=True):
        while not lines[end - 1].strip() or lines[end - 1].startswith("#"):
            end -= 1
        places[section] = slice(start, end)
    return places


def leaves(document: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document with its dotted key, list items by their index."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(value, dict | list) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shown(value: Any) -> str:
    """A value as a table shows it: `-` for none, in quotes if it would not be seen otherwise."""
    if value is None:
        return "-"
    text = str(value)
    return text if text.isprintable() and text == text.strip() != "" else json.dumps(text)


def _assigned(values: dict[str, Any], path: Path) -> tuple[Any, YAML]:
    document, layout = read_document(path)
    for key, value in values.items():
        _assign(document, key, value)
    return document, layout


def _assign(document: Any, key: str, value: Any) -> None:
    node, parts = document, key.split(".")
    for depth, part in enumerate(parts):
        index = int(part) if isinstance(node, list) and part.isdecimal() else part
        known = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
        if index not in known:
            close = get_close_matches(key, [name for name, _ in leaves(document)], n=1)
            beside = [".".join([*parts[:depth], str(name)]) for name in known]
            raise InputError(f"{PARAMS_FILE}: {key}", "unknown key", nearest(key, close or beside))
        if depth == len(parts) - 1:
            node[index] = _as_written(node[index], value)
        else:
            node = node[index]


def _as_written(old: Any, new: Any) -> Any:
    """A new list or mapping on one line where the old one was: a comment behind it stays behind it."""
    if not isinstance(old, CommentedSeq | CommentedMap) or not old.fa.flow_style():
        return new
    match new:
        case list():
            written: Any = CommentedSeq(new)
        case dict():
            written = CommentedMap(new)
        case _:
            return new
    written.fa.set_flow_style()
    return written
