"""`python -m pipelines data`: look at samples, name every problem of a file, read other projects' forms."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triplex.runs.command import command_line
from triplex.runs.errors import Exit, InputError
from triplex.runs.params import PARAMS_FILE, load_yaml, nearest

if TYPE_CHECKING:
    from triplex.data.validate import Findings

app = command_line(
    "Data: look at it before hours are spent on it.",
    """
* `python -m pipelines data validate reviews.csv --column text=body`: every problem, with its row
* `python -m pipelines data import alpaca.json --from alpaca --out rows.jsonl`
""",
)
FORMS = ("alpaca", "sharegpt", "messages")

DataFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .txt, .csv, .json, .jsonl or .parquet.")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", metavar="ROLE=NAME", help="As data.source.columns; repeatable.")
]
Delimiter = Annotated[str, typer.Option("--delimiter", help="Of a .csv file.")]


@app.command(
    epilog="""
* `python -m pipelines data validate reviews.csv --column text=body --column label=liked`
* `python -m pipelines data validate rows.jsonl --json | jq -r '.problems[].where'`
"""
)
def validate(
    file: DataFile,
    columns: Columns = None,
    delimiter: Delimiter = ",",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Name every row that the stage prepare would refuse, by the same rules; nothing is written.

    One problem a row. Bytes that are not UTF-8, or a torn CSV, end the reading and are told last. Exit code 0: every
    row is sound; 2: there are problems.
    """
    found = _read(file, columns, delimiter)
    if as_json:
        problems = [{"where": each.where, "what": each.what, "remedy": each.remedy} for each in found.problems]
        typer.echo(json.dumps({"rows": len(found.rows), "counts": found.counts, "problems": problems}, indent=2))
    else:
        _tell(found.problems)
        counted = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in found.counts.items() if number)
        typer.echo(
            f"{file}: {len(found.rows)} rows to use, {len(found.problems)} problems" + f" ({counted})" * bool(counted)
        )
    raise typer.Exit(Exit.BAD_INPUT if found.problems else Exit.DONE)


@app.command(
    "import",
    epilog="""
* `python -m pipelines data import alpaca.json --from alpaca --out rows.jsonl`: instruction, input, output
* `python -m pipelines data import talks.json --from sharegpt --out rows.jsonl`: conversations of from, value
* `python -m pipelines data import chats.jsonl --from messages --out rows.jsonl`: messages of role, content
""",
)
def import_(
    file: DataFile,
    form: Annotated[str, typer.Option("--from", metavar="|".join(FORMS), help="The form of its rows.")],
    out: Annotated[Path, typer.Option("--out", help="A .jsonl, written whole or not at all.")],
) -> None:
    """Turn other projects' rows into those that params.yaml can name: prompt and completion, or messages.

    Exit code 0: written; 2: problems, each named, and nothing written.
    """
    if form not in FORMS:
        raise InputError("--from", f"unknown form {form!r}", nearest(form, FORMS))
    if out.suffix != ".jsonl":
        raise InputError(out, "the rows are written as .jsonl", f"--out {out.with_suffix('.jsonl')}")
    if out.exists():
        raise InputError(out, "is there already", "name another file, or move it away")
    from triplex.data.chats import import_file

    num_rows, problems = import_file(file, form, out)
    if problems:
        _tell(problems)
        raise InputError(file, f"{len(problems)} problems, nothing written", "mend the rows named above")
    typer.echo(f"{out}: {num_rows} rows; data.source.files in params.yaml can name it")


def _read(file: Path, columns: list[str] | None, delimiter: str) -> "Findings":
    """The rows and problems of a file, by the lengths of params.yaml."""
    from triplex.data.rows import ROLES
    from triplex.data.validate import validate as validated

    named: dict[Any, str] = {}
    for entry in columns or []:
        role, _, name = entry.partition("=")
        if role not in ROLES or not name:
            raise InputError("--column", f"{entry!r} is not ROLE=NAME", f"a role is one of {', '.join(ROLES)}")
        named[role] = name
    if len(delimiter) != 1:
        raise InputError("--delimiter", f"{delimiter!r} is not one character", "--delimiter ';'")
    lengths = load_yaml(PARAMS_FILE)["data"]
    return validated(file, lengths["prompt_words"], lengths["max_words"], named, delimiter)


def _tell(problems: list[InputError]) -> None:
    for problem in problems:
        typer.echo(str(problem))
