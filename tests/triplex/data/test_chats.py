"""Alpaca's, ShareGPT's and OpenAI's rows become TRL's; an odd row is named and nothing is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from triplex.data.chats import import_file

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
SAID = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]


def imported(folder: Path, form: str, *rows: Any) -> tuple[list[Any] | None, list[str]]:
    """The rows written, None when there is no file, and where the problems are, without the file's name."""
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, problems = import_file(source, form, target)
    written = [json.loads(line) for line in target.read_text().splitlines()] if target.exists() else None
    return written, [problem.where.removeprefix(f"{source} ") for problem in problems]


@pytest.mark.parametrize(
    ("form", "row", "expected"),
    [
        ("alpaca", {"instruction": "Add", "input": "1 2", "output": "3"}, {"prompt": "Add\n1 2", "completion": "3"}),
        ("alpaca", {"instruction": "Hi", "output": "yo", "id": 7}, {"id": 7, "prompt": "Hi", "completion": "yo"}),
        ("sharegpt", {"conversations": SAID}, {"messages": TURNS}),
        ("messages", {"messages": TURNS}, {"messages": TURNS}),
        (
            "messages",
            {"messages": [{"role": "developer", "content": [{"type": "text", "text": "be"}]}, *TURNS]},
            {"messages": [{"role": "system", "content": "be"}, *TURNS]},
        ),
    ],
)
def test_a_row_of_each_form(tmp_path: Path, form: str, row: Any, expected: Any) -> None:
    assert imported(tmp_path, form, row) == ([expected], [])


@pytest.mark.parametrize(
    ("form", "good", "odd", "where"),
    [
        ("alpaca", {"instruction": "Hi", "output": "yo"}, {"instruction": "Hi"}, "line 2: output"),
        (
            "alpaca",
            {"instruction": "Hi", "output": "yo"},
            {"instruction": "a", "input": 3, "output": "b"},
            "line 2: input",
        ),
        ("sharegpt", {"conversations": SAID}, {"conversations": [{"from": "robot"}]}, "line 2: conversations[0]"),
        ("sharegpt", {"conversations": SAID}, {"conversations": SAID[:1]}, "line 2: messages"),
        ("messages", {"messages": TURNS}, {"messages": [{"role": "tool", "content": "x"}]}, "line 2: messages[0]"),
        (
            "messages",
            {"messages": TURNS},
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "line 2: messages[0].content[0]",
        ),
        ("messages", {"messages": TURNS}, {"messages": "hi"}, "line 2: messages"),
    ],
)
def test_every_odd_row_is_named_and_nothing_is_written(
    tmp_path: Path, form: str, good: Any, odd: Any, where: str
) -> None:
    assert imported(tmp_path, form, good, odd, good, odd) == (None, [where, where.replace("line 2", "line 4")])
