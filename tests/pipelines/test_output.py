import pytest

from pipelines.output import is_hint, lines, outcome


def test_lines_split_at_newlines_wherever_the_pieces_end() -> None:
    text = "eins\nzwei\r\ndrei ü\n\n  vier".encode()
    for size in (1, 3, 100):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert [line for line in lines(pieces) if line != "zwei"] == ["eins", "drei ü", "  vier"]
        assert "zwei" in list(lines(pieces))


def test_of_a_progress_bar_the_first_and_the_last_state_are_shown() -> None:
    bar = b"".join(b"\r%d%%" % percent for percent in range(101))
    assert list(lines([b"\r0%\r", bar, b"\n"])) == ["0%", "100%"]


def test_colours_and_broken_bytes_do_no_harm() -> None:
    assert list(lines([b"\x1b[1;31mred\x1b[0m\n", b"\xff\n"])) == ["red", "\ufffd"]


def test_a_line_without_end_is_not_kept_for_ever() -> None:
    shown = list(lines([b"x" * 50_000] * 4))
    assert len(shown) > 1
    assert "".join(shown) == "x" * 200_000


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Running stage 'sft':", "Ran"),
        ("Stage 'sft' is cached - skipping run, checking out outputs", "Restored"),
        ("Stage 'sft' didn't change, skipping", "Skipped"),
        ("Running stage 'sft2':", None),
        ("> python -m stages.sft", None),
    ],
)
def test_outcome(line: str, expected: str | None) -> None:
    assert outcome(line, "sft") == expected


def test_hints() -> None:
    assert is_hint("Use `dvc push` to send your updates to remote storage.")
    assert is_hint("Stage 'sft' didn't change, skipping")
    assert not is_hint("Running stage 'sft':")
    assert not is_hint("> python -m stages.sft")
