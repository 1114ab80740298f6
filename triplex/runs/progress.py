"""Progress of long work: a bar with an ETA on a terminal, a line every few seconds elsewhere."""

import re
import time
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from triplex.runs import lock

SECONDS_BETWEEN_LINES = 5.0
_LINE = re.compile(r"(\d+)/(\d+)  (\S.*?) left(?:  (.*))?$")


class Standing(NamedTuple):
    """How far work is: `40/100  0:01:12 left  reward 0.9  kl 0.17  5,120 tokens/s`."""

    done: int
    total: int
    left: str
    figures: str

    def __str__(self) -> str:
        return f"{self.done}/{self.total}  {self.left} left  {self.figures}".rstrip()


def read_standing(line: str) -> Standing | None:
    """What a line of `StepProgress` says, None for any other line."""
    found = _LINE.search(line)
    return Standing(int(found[1]), int(found[2]), found[3], found[4] or "") if found else None


def bars(console: Console) -> Progress:
    """Bars for this terminal; a task has the fields `left` and `figures`."""
    left, figures = TextColumn("{task.fields[left]}"), TextColumn("{task.fields[figures]}")
    count = MofNCompleteColumn(table_column=Column(no_wrap=True))
    bar = BarColumn(bar_width=None)  # what the rest leaves of the line
    return Progress(TextColumn("{task.description}"), bar, count, left, figures, console=console, expand=True)


class StepProgress:
    """Counts `total` steps of `name`; `advance` shows the given figures beside the count, and is a heartbeat."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        """`done` of `total` steps lie behind already, as after a resume; they do not count for the ETA."""
        self.name, self.total, self.done, self._first, self._tokens = name, total, done, done, 0
        self._started = self._last_line = time.monotonic()
        console = Console()
        self._bar = bars(console) if console.is_interactive else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
            self._bar.add_task(self.name, total=self.total, completed=self.done, left="", figures="")
        return self

    def advance(self, count: int = 1, num_tokens: int = 0, **figures: float) -> None:
        """`count` more steps are done, in which `num_tokens` were sampled, read or learnt from."""
        self.done += count
        self._tokens += num_tokens
        lock.beat(self.name, self.done, self.total)
        now = time.monotonic()
        if self._bar:
            standing = self._standing(now, figures)
            self._bar.update(self._bar.task_ids[0], completed=self.done, left=standing.left, figures=standing.figures)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self._last_line = now
            print(f"{self.name} {self._standing(now, figures)}", flush=True)

    def _standing(self, now: float, figures: dict[str, float]) -> Standing:
        took = now - self._started
        left = timedelta(seconds=round(took / (self.done - self._first) * (self.total - self.done)))
        texts = [f"{key} {value:.3g}" for key, value in figures.items()]
        if self._tokens:
            texts.append(f"{self._tokens / took:,.0f} tokens/s")
        return Standing(self.done, self.total, str(left), "  ".join(texts))

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()
