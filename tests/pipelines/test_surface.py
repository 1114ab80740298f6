"""What scripts rely on: commands, arguments, options and exit codes are those of surface.txt, until it is changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from pipelines.__main__ import app
from triplex.perplexity.__main__ import app as perplexity
from triplex.rewards.__main__ import app as rewards
from triplex.runs.errors import Exit

SURFACE = Path(__file__).with_name("surface.txt")


def surface(command: Any, name: str) -> Iterator[str]:
    """A line each command, with its arguments and options in their order."""
    words = [
        (parameter.metavar or parameter.name.upper()) if parameter.param_type_name == "argument" else parameter.opts[-1]
        for parameter in command.params
    ]
    yield " ".join([name, *words])
    for each, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from surface(inner, f"{name} {each}")


def examples(app: typer.Typer, command: Any, *words: str) -> Iterator[str]:
    """The lines of 80 columns below the heading of the examples, of each command that has any."""
    if command.epilog:
        shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).stdout
        yield from shown.split(" Examples ")[1].splitlines()
    for name, inner in getattr(command, "commands", {}).items():
        yield from examples(app, inner, *words, name)


@pytest.mark.parametrize("app", [app, perplexity, rewards], ids=["pipelines", "perplexity", "rewards"])
def test_no_example_is_broken_inside_quotes(app: typer.Typer) -> None:
    lines = list(examples(app, typer.main.get_command(app)))
    assert sum("•" in line for line in lines) > 5
    assert [line for line in lines if line.count('"') % 2] == []


def test_the_surface_is_the_one_written_down() -> None:
    found = [*surface(typer.main.get_command(app), "pipelines"), *(f"exit {code.value} {code.name}" for code in Exit)]
    assert found == SURFACE.read_text(encoding="utf-8").splitlines()
