"""How far the running stages are: a bar of each in a terminal, a progress artifact of each on Prefect's page."""

import logging
import re
from types import TracebackType
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging.handlers import PrefectConsoleHandler
from rich.progress import Progress, TaskID
from rich.theme import Theme

from triplex.runs.progress import Standing, bars, read_standing


class Watch:
    """Bars below the log of a flow, where it goes to a terminal; the lines that they stand for are left out of it."""

    def __init__(self) -> None:
        handlers = [h for h in logging.getLogger().handlers if isinstance(h, PrefectConsoleHandler)]
        self._handlers = [handler for handler in handlers if handler.console.is_interactive]
        self._bars = next((bars(handler.console) for handler in self._handlers), None)

    def __enter__(self) -> "Watch":
        if self._bars:
            for handler in self._handlers:
                handler.addFilter(_tells_more)
                handler.console.push_theme(Theme())  # Prefect's knows no bars
            self._bars.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()
            for handler in self._handlers:
                handler.removeFilter(_tells_more)
                handler.console.pop_theme()

    def stage(self, name: str) -> "StageWatch":
        """To be entered while the stage runs, in its task."""
        return StageWatch(name, self._bars)


class StageWatch:
    """One stage: its bar appears when it begins, its artifact with the first that is known of it."""

    def __init__(self, name: str, shown: Progress | None) -> None:
        self._name, self._bars = name, shown
        self._bar: TaskID | None = None
        self._artifact: UUID | None = None

    def __enter__(self) -> "StageWatch":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bars and self._bar is not None:
            self._bars.remove_task(self._bar)

    def begin(self) -> None:
        """The stage runs: it is neither up to date nor restored."""
        if self._bars:
            self._bar = self._bars.add_task(self._name, total=None, left="", figures="")

    def show(self, standing: Standing) -> None:
        """The stage is that far."""
        if self._bars and self._bar is not None:
            self._bars.update(
                self._bar,
                completed=standing.done,
                total=standing.total,
                left=standing.left,
                figures=standing.figures,
            )
        done = 100 * standing.done / standing.total
        text = f"{self._name}: {standing}".replace("  ", ", ")  # of two spaces a page shows one
        if self._artifact is None:
            key = f"triplex-{re.sub('[^a-z0-9]+', '-', self._name.lower())}"
            self._artifact = cast(UUID, create_progress_artifact(done, key=key, description=text))
        else:
            update_progress_artifact(self._artifact, done, description=text)


def _tells_more(record: logging.LogRecord) -> bool:
    return read_standing(record.getMessage()) is None
