"""A command line of Triplex: what all of them have in common."""

from collections.abc import Callable
from typing import Any

import typer

_EXAMPLES = "**Examples**\n{}"


class _CommandLine(typer.Typer):
    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Of the epilog, examples as a Markdown list, the help has a heading."""
        if options.get("epilog"):
            options["epilog"] = _EXAMPLES.format(options["epilog"])
        return super().command(name, **options)


def command_line(purpose: str, examples: str) -> typer.Typer:
    """An empty command line whose help tells its `purpose` and, as a Markdown list, `examples`."""
    return _CommandLine(
        help=purpose,
        epilog=_EXAMPLES.format(examples),
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def counted(number: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {thing}" + "s" * (number != 1)
