"""`python -m pipelines serve`: Prefect's page, from whose form runs are started, and what runs them here."""

import asyncio
import logging
import signal
from contextlib import suppress
from typing import Annotated

import typer

from pipelines import environment
from pipelines.server import start_server
from triplex.runs.errors import Exit

EXAMPLES = """
* `python -m pipelines serve`: the page, on http://127.0.0.1:4200, until Ctrl-C

On the page, Deployments, triplex/local, Run, Custom run: stages and parameters are asked for. Runs of the command line
appear there if PREFECT_API_URL=http://127.0.0.1:4200/api is in its environment.
"""


def serve(port: Annotated[int, typer.Option(help="Of the page.", min=1, max=65535)] = 4200) -> None:
    """Serve Prefect's page, and run what is started from it, one run at a time: what is started meanwhile waits.

    With PREFECT_API_URL in the environment the page is that of the server there. What runs ends with this command.
    """
    environment.prepare()
    wait_for_server = start_server(port)
    from prefect.runner import Runner  # Prefect reads the server's address when it is imported

    from pipelines.flow import triplex

    wait_for_server()
    # every two seconds, of a run that waits for its turn: it is not lost, and the page shows it as Late
    logging.getLogger("prefect.runner").addFilter(lambda record: "at capacity" not in record.getMessage())
    description = "The stages of dvc.yaml, each run through DVC in this working tree."
    ended_by = signal.SIGINT

    class _Runner(Runner):
        def handle_sigterm(self, *_: object) -> None:
            """As after Ctrl-C; Prefect's own leaves the coroutine that ends the runner unawaited."""
            nonlocal ended_by
            ended_by = signal.SIGTERM
            signal.raise_signal(signal.SIGINT)

    runner = _Runner(name="local", limit=1)
    runner.add_flow(triplex, name="local", description=description)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which `nohup` and `command &` have ignored
    with suppress(KeyboardInterrupt):
        asyncio.run(runner.start())
    if ended_by == signal.SIGTERM:
        raise typer.Exit(Exit.TERMINATED)
