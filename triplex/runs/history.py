"""When a stage made what it has made, and how long that took; not in its outs, which equal runs write alike."""

import json
import time
from pathlib import Path
from typing import NamedTuple

from triplex.runs.files import sha256_file, write_json
from triplex.runs.manifest import manifest_path

_HISTORY = Path(".triplex/history")
_KEY_CHARACTERS = 16


class Made(NamedTuple):
    """The end of a run in UTC, and its seconds since it was started last."""

    ended: str
    seconds: float


def keep(name: str, seconds: float) -> None:
    """Stage `name` has written its manifest."""
    ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    write_json(_record(name), Made(ended, round(seconds, 1))._asdict())


def find(name: str) -> Made | None:
    """Of the run that wrote what stage `name` has now; None for one of another machine, or of before this was kept."""
    if not manifest_path(name).is_file() or not (path := _record(name)).is_file():
        return None
    return Made(**json.loads(path.read_text(encoding="utf-8")))


def _record(name: str) -> Path:
    """A manifest's hash stands for inputs, code, parameters, environment and every output."""
    return _HISTORY / f"{manifest_path(name).stem}-{sha256_file(manifest_path(name))[:_KEY_CHARACTERS]}.json"
