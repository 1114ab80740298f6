"""Every problem of a file is named once, with its place, and what is sound is counted."""

import re
from pathlib import Path

import pytest

from triplex.data.sources import Columns
from triplex.data.validate import validate

ROWS = """{"id": 1, "text": "a good film it was"}
{broken
{"id": 2, "text": null}

{"id": 3, "text": "fine day again", "label": "maybe"}
{"id": 4, "prompt": "x"}
[1]
{"id": 1, "text": "another text"}
{"id": 5, "text": "the last one is sound"}
"""


def test_each_bad_line_is_named_and_the_reading_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(ROWS)
    found = validate(file, prompt_words=2, max_words=20)
    assert [row.text for row in found.rows] == ["a good film it was", "the last one is sound"]
    assert [problem.where.removeprefix(f"{file} line ").split(":")[0].split()[0] for problem in found.problems] == [
        "2", "3", "5", "6", "7", "8",
    ]  # fmt: skip
    for word, problem in zip(("null", "maybe", "completion", "array", "id '1'"), found.problems[1:], strict=True):
        assert word in str(problem)


def test_rows_of_a_csv_are_counted_from_one_and_columns_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("body,liked\none text,1\nanother text,perhaps\nthird text,0\n")
    found = validate(file, 1, 20, {"text": "body", "label": "liked"})
    assert [row.label for row in found.rows] == [1, 0]
    assert [problem.where for problem in found.problems] == [f"{file} row 2: label"]


def test_a_file_that_is_spoilt_as_a_whole_is_one_problem(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_bytes(b"sound line\ncaf\xe9\n")
    found = validate(file, 1, 20)
    assert not found.rows
    assert [problem.where for problem in found.problems] == [f"{file} line 2"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "row 1: no column 'text'\n  remedy: .* or by --column text=COLUMN; known: body, liked"),
        ({"text": "bdy"}, "row 1: no column 'bdy', .*\n  remedy: did you mean 'body'"),
    ],
)
def test_a_column_that_a_table_lacks_is_one_problem(tmp_path: Path, columns: Columns, said: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("body,liked\none text,1\nanother text,0\n")
    (problem,) = validate(file, 1, 20, columns).problems
    assert re.search(said, str(problem))


def test_a_file_of_blanks_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text(" \n \n")
    assert [problem.what for problem in validate(file, 1, 20).problems] == ["no row with text"]
