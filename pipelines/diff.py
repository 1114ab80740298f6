"""`python -m pipelines diff`: where two runs part, from their manifests and digests."""

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from triplex.runs.errors import Exit, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = """
* `python -m pipelines diff ../other .`: two folders
* `python -m pipelines diff HEAD~1 .`: an older run, from DVC's cache, and the one here
* `python -m pipelines diff ../other . --json | jq -r '.[].place'`
"""
_ABSENT = "absent"
_HASH = re.compile(r"[0-9a-f]{16,64}")
_HASH_DIGITS = 7  # git's
_WHOLE = 22  # characters of a number, which are not broken


class Row(NamedTuple):
    """One difference: its kind, the stage (or file) it is in, the place, and both values."""

    kind: str
    where: str
    place: str
    one: str
    other: str


def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="A folder or a git revision.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="A folder or a git revision.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """Name what differs between two runs, causes first: code, parameters, environment, inputs.

    Then, for each stage, the first step in which their digests part and the first quantity in it: data, sampled ids,
    log-probs, rewards, advantages, loss, gradients, weights; for stages that train nothing, the first output. It reads
    their reports alone. Exit code 0: the runs are the same; 1: they differ; 2: a mistake in the input.
    """
    from pipelines.clone import run_folder

    with run_folder(run_a, Path("reports")) as one, run_folder(run_b, Path("reports")) as other:
        rows = list(differences(one, other))
    if as_json:
        typer.echo(json.dumps([row._asdict() for row in rows]))
    elif rows:
        _print_tables(rows, run_a, run_b)
    else:
        typer.echo("the same: code, parameters, environment, inputs, outputs")
    raise typer.Exit(Exit.FAILED if rows else Exit.DONE)


def differences(one: Path, other: Path) -> Iterator[Row]:
    """What differs, causes before effects; InputError for a run without manifests or with a damaged one."""
    a, b = _manifests(one), _manifests(other)
    for name in [*a, *b]:
        if name not in a or name not in b:
            yield Row("stages", name, "", *("there" if name in run else "not run" for run in (a, b)))
    shared = [name for name in a if name in b]
    yield from _inputs("code", shared, a, b)
    yield from _keys("params", shared, a, b)
    yield from _keys("environment", shared, a, b)
    yield from _inputs("inputs", shared, a, b)
    for name in shared:
        yield from _results(one, other, name, a[name], b[name])


def _manifests(root: Path) -> dict[str, dict[str, Any]]:
    """By stage, in the order of dvc.yaml."""
    from triplex.runs.manifest import declarations, manifest_path, read_manifest

    names = [name for name in declarations(root / "dvc.yaml") if (root / manifest_path(name)).is_file()]
    if not names:
        raise InputError(root, "no manifests in reports/manifests", "`dvc repro`, or `dvc checkout` and `dvc pull`")
    return {name: read_manifest(name, root) for name in names}


def _inputs(
    kind: str, names: list[str], a: "Mapping[str, dict[str, Any]]", b: "Mapping[str, dict[str, Any]]"
) -> Iterator[Row]:
    """Files of code, or inputs that no stage wrote: each once, with the stages that it went into."""
    written = {out for run in (a, b) for manifest in run.values() for out in manifest["outputs"]}
    stages: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        one, other = a[name]["inputs"], b[name]["inputs"]
        for path in sorted(one.keys() | other.keys()):
            is_code = path.endswith((".py", ".j2"))
            made = any(str(place) in written for place in (Path(path), *Path(path).parents))
            made = made or path.startswith("reports/manifests/")
            if one.get(path) != other.get(path) and not made and is_code == (kind == "code"):
                found = (path, one.get(path, _ABSENT), other.get(path, _ABSENT))
                stages.setdefault(found, []).append(name)
    for (path, x, y), into in stages.items():
        yield Row(kind, _shortened(into), path, x, y)


def _keys(
    kind: str, names: list[str], a: "Mapping[str, dict[str, Any]]", b: "Mapping[str, dict[str, Any]]"
) -> Iterator[Row]:
    """Parameters or facts of the environment, each once, with the stages that have it."""
    from pipelines.contents import differing_keys

    stages: dict[str, list[str]] = {}
    for name in names:
        for line in differing_keys(a[name][kind], b[name][kind]):
            stages.setdefault(line, []).append(name)
    for line, into in stages.items():
        key, values = line.split(": ", 1)
        x, y = values.split(" | ", 1)
        yield Row(kind, _shortened(into), key, x, y)


def _results(one: Path, other: Path, name: str, a: dict[str, Any], b: dict[str, Any]) -> Iterator[Row]:
    """The first step in which two trainings part; else the first output."""
    from pipelines.steps import first_step
    from triplex.runs.digests import DIGESTS, read_rows

    path = DIGESTS / f"{name.replace('@', '-')}.jsonl"
    if (one / path).is_file() and (other / path).is_file():
        found = first_step(read_rows(one / path), read_rows(other / path))
        if found is not None:
            yield Row("result", name, *found)
            return
    for out in sorted(a["files"].keys() | b["files"].keys()):
        if a["files"].get(out) != b["files"].get(out):
            x, y = (run["files"].get(out, {}).get("sha256", _ABSENT) for run in (a, b))
            yield Row("result", name, out, x, y)
            return


def _shortened(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _print_tables(rows: list[Row], run_a: str, run_b: str) -> None:
    """A table a kind, in which only texts of several words are broken; hashes are cut to their first digits."""
    console = Console(highlight=False)
    for number, (kind, group) in enumerate(groupby(rows, lambda row: row.kind)):
        cells = [(row.place, _short_hash(row.one), _short_hash(row.other), row.where) for row in group]
        table = Table(Column(kind, no_wrap=True, overflow="fold"), box=None)
        for header, values in zip((run_a, run_b, "in"), list(zip(*cells, strict=True))[1:], strict=True):
            whole = max(len(value.split()[0]) for value in values)
            table.add_column(escape(header), overflow="fold", min_width=min(whole, _WHOLE))
        for row in cells:
            table.add_row(*map(escape, row))
        if number:
            console.print()
        console.print(table)


def _short_hash(value: str) -> str:
    return value[:_HASH_DIGITS] if _HASH.fullmatch(value) else value
