"""The Prefect server that a run from the command line talks to."""

import atexit
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pipelines.environment import LOOPBACK, PASSWORD, PREFECT_HOME
from pipelines.guard import Guarded
from triplex.runs.errors import InputError

START_SECONDS = 300.0


def start_server(port: int = 0) -> Callable[[], None]:
    """Set PREFECT_API_URL, unless it is set, to a server on loopback that ends with this process; port 0 is a free one.

    Returns what waits until the server answers. To be called before Prefect is imported and after
    `environment.prepare`, whose password server and clients share. Prefect's own temporary server shares the
    terminal's process group, so Ctrl-C ends it before the flow has reported to it and the flow waits for ever, and
    `kill -9` of the flow leaves it behind. A guarded one has neither fault.
    """
    if os.environ.get("PREFECT_API_URL"):
        return lambda: None
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            free.bind((LOOPBACK, port))
        except OSError as error:
            raise InputError(
                f"--port {port}", f"not to be had ({error})", "name another, or end what has it"
            ) from error
        port = free.getsockname()[1]
    os.environ["PREFECT_API_URL"] = f"http://{LOOPBACK}:{port}/api"
    env = {"PREFECT_SERVER_API_HOST": LOOPBACK, "PREFECT_SERVER_API_PORT": str(port)}
    log = PREFECT_HOME / "server.log"
    with log.open("wb") as file:
        guarded = Guarded(["prefect", "server", "start"], env, stdout=file)
    atexit.register(guarded.end)  # registered before Prefect is imported: called after Prefect has sent its last logs
    return lambda: _wait_until_healthy(guarded, log)


def _wait_until_healthy(guarded: Guarded, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while guarded.running() and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5):  # noqa: S310  (http, ours)
                page = os.environ["PREFECT_API_URL"].removesuffix("/api")
                print(f"Prefect's page: {page}, login: {PASSWORD}", file=sys.stderr)
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise InputError("Prefect's server", f"did not start; the end of {log} tells why", "mend that, and start again")
