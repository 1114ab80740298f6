"""What scripts rely on: commands, arguments, options and exit codes are those of surface.txt, until it is changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from pipelines.__main__ import app
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


def test_the_surface_is_the_one_written_down() -> None:
    found = [*surface(typer.main.get_command(app), "pipelines"), *(f"exit {code.value} {code.name}" for code in Exit)]
    assert found == SURFACE.read_text(encoding="utf-8").splitlines()
