"""1 for a completion that ends as a sentence does, 0 for one that breaks off, None for an empty one."""

from collections.abc import Sequence
from typing import Any

ENDS = tuple(".!?…。！？")
CLOSERS = "\"'”’»)]"


def full_stop(
    prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
) -> list[float | None]:
    """What follows the sentence's end may be a closing quote or bracket, or white space."""
    return [float(text.rstrip().rstrip(CLOSERS).endswith(ENDS)) if text.strip() else None for text in completions]
