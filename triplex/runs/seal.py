"""JSON that vouches for its own bytes: its last key is the SHA-256 of the rest."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from triplex.runs.files import json_text

_KEY = "sha256"


def sealed(values: Mapping[str, Any]) -> str:
    """The text of `values` and their seal; NaN and infinity are a ValueError."""
    return json_text({**values, _KEY: sha256(json_text(values).encode()).hexdigest()})


def unsealed(text: bytes) -> dict[str, Any] | None:
    """What `sealed` was given, None unless `text` is what it returned, byte for byte."""
    try:
        content = json.loads(text)
        values = {key: value for key, value in content.items() if key != _KEY}
        return values if sealed(values).encode() == text else None
    except (ValueError, AttributeError, RecursionError):  # no UTF-8, no JSON, a NaN, no object, too deep
        return None
