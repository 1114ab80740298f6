"""What is wrong: what, where, what it means, what mends it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SET_ASIDE = Path(".triplex/set-aside")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; with a warning, work can go on as it is."""

    what: str
    where: str
    meaning: str
    remedy: str
    repair: Callable[[], str] | None = None  # mends it and says what it has done
    warning: bool = False


#: looks at one thing in the current folder
Check = Callable[[], Iterator[Finding]]


def set_aside(path: Path) -> Path:
    """Move a file or folder of the project, which nothing here can make again, to .triplex/set-aside; returns where."""
    target, number = SET_ASIDE / path, 1
    while target.exists():
        number += 1
        target = SET_ASIDE / path.parent / f"{path.name}.{number}"
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    return target
