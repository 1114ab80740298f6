"""What Prefect and DVC read from the environment when they are imported."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import triplex.runs.telemetry  # noqa: F401  (switches it off)

PREFECT_HOME = Path(".triplex/prefect")
PASSWORD = PREFECT_HOME / "password"
LOOPBACK = "127.0.0.1"
LOG_FORMAT = "PREFECT_LOGGING_FORMATTERS_STANDARD"


def prepare() -> None:
    """Keep Prefect inside the project, offline, on loopback and behind a password; what the user has set stays.

    A server that the user has named, other than one on this machine, does not get the password.
    """
    PREFECT_HOME.mkdir(parents=True, exist_ok=True)
    PREFECT_HOME.chmod(0o700)
    password = _password()
    for name, value in {
        "PREFECT_HOME": str(PREFECT_HOME.absolute()),
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # seconds until `serve` sees that a run was asked for
        f"{LOG_FORMAT}_FLOW_RUN_FMT": "%(asctime)s | flow | %(message)s",
        f"{LOG_FORMAT}_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)s | %(message)s",
    }.items():
        os.environ.setdefault(name, value)
    if urlsplit(os.environ.get("PREFECT_API_URL", f"http://{LOOPBACK}")).hostname in (LOOPBACK, "localhost", "::1"):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", os.environ["PREFECT_SERVER_API_AUTH_STRING"])


def _password() -> str:
    """USER:PASSWORD of this project's Prefect server, drawn once."""
    if not PASSWORD.is_file():
        handle, temporary = tempfile.mkstemp(dir=PREFECT_HOME)  # readable by its owner alone
        with open(handle, "w") as file:
            file.write(f"triplex:{secrets.token_urlsafe()}")
        with suppress(FileExistsError):  # of two processes the first has drawn it
            os.link(temporary, PASSWORD)
        os.unlink(temporary)
    return PASSWORD.read_text()
