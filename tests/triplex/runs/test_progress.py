import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from triplex.runs.progress import StepProgress

SetClock = Callable[..., None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """`set_clock(*seconds)`: what the clock shows at the start and at each step."""

    def set_clock(*seconds: float) -> None:
        clock = iter(seconds)
        monkeypatch.setattr("triplex.runs.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))

    return set_clock


def test_without_a_terminal_the_last_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with StepProgress("base", 3) as progress:
        for loss in (3.0, 2.0, 1.23456):
            progress.advance(loss=loss)
    assert capsys.readouterr().out == "base 3/3  0 s left  loss 1.235\n"


def test_lines_come_no_faster_than_the_interval(capsys: pytest.CaptureFixture[str], set_clock: SetClock) -> None:
    set_clock(0, 2, 5, 9, 10)
    with StepProgress("sft", 8) as progress:
        for _ in range(4):
            progress.advance()
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines] == ["sft 2/8  15 s left", "sft 4/8  10 s left"]


def test_resumed_steps_do_not_count_for_the_time_left(capsys: pytest.CaptureFixture[str], set_clock: SetClock) -> None:
    set_clock(0, 6)
    with StepProgress("sft", 103, done=100) as progress:
        progress.advance()
    assert re.fullmatch(r"sft 101/103  12 s left\s*", capsys.readouterr().out)
