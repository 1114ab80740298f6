from collections.abc import Callable
from types import SimpleNamespace

import pytest

from triplex.runs.progress import Standing, StepProgress, read_standing

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
    assert capsys.readouterr().out == "base 3/3  0:00:00 left  loss 1.23\n"


def test_lines_come_no_faster_than_the_interval(capsys: pytest.CaptureFixture[str], set_clock: SetClock) -> None:
    set_clock(0, 2, 5, 9, 10)
    with StepProgress("sft", 8) as progress:
        for _ in range(4):
            progress.advance()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["sft 2/8  0:00:15 left", "sft 4/8  0:00:10 left"]


def test_resumed_steps_do_not_count_for_the_time_left(capsys: pytest.CaptureFixture[str], set_clock: SetClock) -> None:
    set_clock(0, 6)
    with StepProgress("sft", 103, done=100) as progress:
        progress.advance()
    assert capsys.readouterr().out == "sft 101/103  0:00:12 left\n"


def test_a_line_is_read_as_it_was_written(capsys: pytest.CaptureFixture[str], set_clock: SetClock) -> None:
    set_clock(0, 50_000)
    with StepProgress("reward preference", 8) as progress:
        progress.advance(4, num_tokens=10**9, reward=-0.51234, kl=1e-5)
    line = capsys.readouterr().out.rstrip()
    figures = "reward -0.512  kl 1e-05  20,000 tokens/s"
    assert read_standing(f"(Worker pid=7) {line}") == Standing(4, 8, "13:53:20", figures)
    assert read_standing("Running stage 'sft':") is None
    assert read_standing("sft 2/8  1 day, 0:00:15 left") == Standing(2, 8, "1 day, 0:00:15", "")
