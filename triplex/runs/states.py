"""Where each stage keeps what it can go on from: folders that belong to exactly one set of inputs."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

STATES = Path(".triplex/state")
_KEY_CHARACTERS = 16


def state_path(name: str, identity: dict[str, Any]) -> Path:
    """Where a run of stage `name` keeps what it can go on from; `identity` is all that its bytes depend on."""
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:_KEY_CHARACTERS]
    return STATES / f"{name.replace('@', '-')}-{key}"


def states(name: str) -> list[Path]:
    """The state folders of stage `name`."""
    return sorted(STATES.glob(_folders(name)))


def half_removed(name: str) -> list[Path]:
    """State folders of stage `name` that a killed run was removing."""
    return list(STATES.glob(f".{_folders(name)}.*.tmp"))


def _folders(name: str) -> str:
    return f"{name.replace('@', '-')}-{'[0-9a-f]' * _KEY_CHARACTERS}"
