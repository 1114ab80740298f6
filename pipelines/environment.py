"""What Prefect and DVC read from the environment when they are imported."""

import os
from pathlib import Path

PREFECT_HOME = Path(".triplex/prefect")
LOG_FORMAT = "PREFECT_LOGGING_FORMATTERS_STANDARD"


def prepare() -> None:
    """Keep Prefect inside the project and offline, and its lines short; what the user has set stays."""
    PREFECT_HOME.mkdir(parents=True, exist_ok=True)
    for name, value in {
        "PREFECT_HOME": str(PREFECT_HOME.absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        f"{LOG_FORMAT}_FLOW_RUN_FMT": "%(asctime)s | flow | %(message)s",
        f"{LOG_FORMAT}_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)s | %(message)s",
    }.items():
        os.environ.setdefault(name, value)
