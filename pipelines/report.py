"""`python -m pipelines report`: the page that the last run wrote, opened or named."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from pipelines.graph import DVC_FILE
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml

PAGE = Path("reports/index.html")
NAMED = f"report: {PAGE}, which `python -m pipelines report` opens"
EXAMPLES = """
* `python -m pipelines report`: opens reports/index.html in the browser
* `python -m pipelines report --path`: tells where it is, for a machine without one
"""


def report(path: Annotated[bool, typer.Option("--path", help="Tell where it is; open nothing.")] = False) -> None:
    """Open the report of the last run; it is built by the stage plot, never here.

    Its address is printed too, and nothing else without a terminal. Exit code 0; 2: there is no report yet.
    """
    if not PAGE.is_file():
        load_yaml(DVC_FILE)  # elsewhere than in the repository's root its absence is the cause
        what = "no report yet: the stage plot has not run here"
        raise InputError(PAGE, what, "`python -m pipelines run` makes it, `dvc pull` fetches one that was shared")
    typer.echo(PAGE if path else PAGE.resolve().as_uri())
    if not path and sys.stdout.isatty() and not _opened():
        what = "no browser took it: copy the address to one, or the file to a machine that has one"
        typer.echo(f"{what}; BROWSER=COMMAND names one", err=True)


def _opened() -> bool:
    """Whether the browser of BROWSER, or one with a window, took the page; others would take the terminal over."""
    has_browser = sys.platform != "linux" or any(map(os.environ.get, ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")))
    return has_browser and webbrowser.open(PAGE.resolve().as_uri())
