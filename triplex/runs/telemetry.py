"""What libraries would tell their makers, and say at every start, switched off: who can be started imports this first.

What the user has set stays. docs/security.md tells which library reads which name.
"""

import os

SWITCHES = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # its page asks Amplitude, whatever the others say; the first one does not
    "RAY_USAGE_STATS_ENABLED": "0",
    "UNSLOTH_DISABLE_STATISTICS": "1",
}

QUIET = {"TRANSFORMERS_VERBOSITY": "error"}  # which warns of what is meant so: a fresh head, packed rows without a mask

for name, value in (SWITCHES | QUIET).items():
    os.environ.setdefault(name, value)
