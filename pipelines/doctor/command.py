"""`python -m pipelines doctor`: what is wrong with this project on this machine, and its repair."""

import json
import logging
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.doctor.finding import Check, Finding
from triplex.runs.command import counted
from triplex.runs.errors import BusyError, Exit, InputError

EXAMPLES = """
* `python -m pipelines doctor`: looks, and changes nothing
* `python -m pipelines doctor --repair`: mends what can be mended without losing anything
* `python -m pipelines doctor --json | jq -r '.findings[].where'`
"""


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without losing anything.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Look for what is wrong with this project on this machine: what, where, what it means, what mends it.

    Reads every byte of DVC's cache and of what the stages wrote. A repair deletes only what can be made again; the
    rest is moved to .triplex/set-aside. Exit code 0: nothing is wrong, or nothing but warnings; 1: findings are left;
    75: --repair, while something runs.
    """
    from dvc.logger import set_loggers_level

    from pipelines.doctor import checks, leftovers, resources

    if repair and (busy := leftovers.running()):
        raise BusyError("doctor --repair", f"something runs: {', '.join(busy)}", "wait for it, or end it")
    left: list[Finding] = []
    mended: list[tuple[Finding, str]] = []
    with set_loggers_level(logging.WARNING), Console(stderr=True).status("") as status:
        for check in checks.CHECKS:
            status.update((check.__doc__ or "").partition(":")[0].partition(";")[0])
            for finding in list(look(check)):
                if repair and finding.repair:
                    try:
                        mended.append((finding, finding.repair()))
                        continue
                    except InputError as error:
                        finding = Finding(finding.what, finding.where, str(error), finding.remedy)
                left.append(finding)
    if as_json:
        _print_json(left, mended)
    else:
        _print_tables(left, mended)
        typer.echo(resources.told())
    raise typer.Exit(Exit.DONE if all(finding.warning for finding in left) else Exit.FAILED)


def look(check: Check) -> Iterator[Finding]:
    """The findings of a check; what keeps it from looking is one too."""
    try:
        yield from check()
    except InputError as error:
        yield Finding("unreadable", error.where, error.what, error.remedy)


def _print_tables(left: list[Finding], mended: list[tuple[Finding, str]]) -> None:
    console = Console()
    if mended:
        table = _table("repaired", "where", "done")
        for finding, done in mended:
            table.add_row(Text(finding.what, style="green"), Text(finding.where), Text(done))
        console.print(table)
    if left:
        table = _table("finding", "where", "what it means", "what repairs it")
        for finding in left:
            what = Text(finding.what, style="yellow" if finding.warning else "red")
            table.add_row(what, Text(finding.where), Text(finding.meaning), Text(finding.remedy))
        console.print(table)
    warnings = sum(finding.warning for finding in left)
    typer.echo(f"{counted(len(left) - warnings, 'finding')}, {counted(warnings, 'warning')}, {len(mended)} repaired")


def _table(*columns: str) -> Table:
    """A table whose paths and commands are whole in a narrow window too."""
    table = Table(box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print_json(left: list[Finding], mended: list[tuple[Finding, str]]) -> None:
    def fields(finding: Finding) -> dict[str, object]:
        level = "warning" if finding.warning else "fault"
        repairable = finding.repair is not None
        return {"what": finding.what, "level": level, "where": finding.where, "meaning": finding.meaning,
                "remedy": finding.remedy, "repairable": repairable}  # fmt: skip

    repaired = [{**fields(finding), "done": done} for finding, done in mended]
    typer.echo(json.dumps({"findings": [fields(finding) for finding in left], "repaired": repaired}, indent=2))
