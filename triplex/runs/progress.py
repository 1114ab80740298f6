"""Progress of long work: a bar with an ETA on a terminal, a line every few seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from triplex.runs import lock

SECONDS_BETWEEN_LINES = 5.0


class StepProgress:
    """Counts `total` steps of `name`; `advance` shows the given figures beside the count, and is a heartbeat."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        """`done` of `total` steps lie behind already, as after a resume; they do not count for the ETA."""
        self.name, self.total, self.done, self._first = name, total, done, done
        self._started = self._last_line = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[figures]}")) if sys.stdout.isatty() else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._bar.add_task(self.name, total=self.total, completed=self.done, figures="")
        return self

    def advance(self, count: int = 1, **figures: float) -> None:
        """`count` more steps are done."""
        self.done += count
        lock.beat(self.name, self.done, self.total)
        text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self.done, figures=text)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self._last_line = now
            left = (now - self._started) / (self.done - self._first) * (self.total - self.done)
            print(f"{self.name} {self.done}/{self.total}  {left:.0f} s left  {text}", flush=True)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()
