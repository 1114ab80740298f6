"""A command line of Triplex: what all of them have in common."""

import typer


def command_line(purpose: str, examples: str) -> typer.Typer:
    """An empty command line whose help tells its `purpose` and, as a Markdown list, `examples`."""
    return typer.Typer(
        help=purpose,
        epilog=examples,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def counted(number: int, thing: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {thing}" + "s" * (number != 1)
