"""Other projects' forms of a chat as TRL's rows: Alpaca's instructions, ShareGPT's conversations, OpenAI's messages."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from triplex.data.files import Record, open_file
from triplex.data.rows import read_rows
from triplex.data.validate import every_record
from triplex.runs.errors import InputError
from triplex.runs.files import write_text

_SHAREGPT = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_KEPT = ("id", "label")
_NO_LIMIT = 10**9  # words; a text is cut when it is prepared, not here


def import_file(source: Path, form: str, target: Path) -> tuple[int, list[InputError]]:
    """Write the rows of `source`, in one of FORMS, to `target` as JSONL: (rows, problems).

    With a problem, and there is at most one a row, nothing is written.
    """
    problems: list[InputError] = []
    found: list[dict[str, Any]] = []
    try:
        for record in every_record(open_file(source), problems.append):
            try:
                row = replace(record, values=FORMS[form](record))
                list(read_rows([row], 1, _NO_LIMIT, Counter()))  # the rules of every row
            except InputError as error:
                problems.append(error)
                continue
            found.append({name: record.values[name] for name in _KEPT if name in record.values} | row.values)
    except InputError as error:  # of the file as a whole
        problems.append(error)
    if not problems:
        write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    return len(found), problems


def _alpaca(record: Record) -> dict[str, Any]:
    """`instruction` and, where there is one, `input` below it are the prompt; `output` is the completion."""
    _need(record, "instruction", str)
    prompt, more = record.values["instruction"], record.values.get("input") or ""
    if not isinstance(more, str):
        raise InputError(f"{record.where}: input", f"holds {type(more).__name__}, not text", "mend the row")
    _need(record, "output", str)
    return {"prompt": f"{prompt}\n{more}" if more.strip() else prompt, "completion": record.values["output"]}


def _sharegpt(record: Record) -> dict[str, Any]:
    turns = _need(record, "conversations", list)
    messages = []
    for index, turn in enumerate(turns):
        where = f"{record.where}: conversations[{index}]"
        if not isinstance(turn, dict) or turn.get("from") not in _SHAREGPT:
            said = turn.get("from") if isinstance(turn, dict) else turn
            raise InputError(where, f"unknown speaker {said!r}", f"one of {', '.join(_SHAREGPT)}")
        messages.append({"role": _SHAREGPT[turn["from"]], "content": turn.get("value")})
    return {"messages": messages}


def _openai(record: Record) -> dict[str, Any]:
    """Roles as they are, but `developer` for `system`; a content of text parts is one text."""
    messages = []
    for index, turn in enumerate(_need(record, "messages", list)):
        if not isinstance(turn, dict):
            raise InputError(f"{record.where}: messages[{index}]", "not an object", '{"role": ..., "content": ...}')
        role, content = turn.get("role"), turn.get("content")
        if isinstance(content, list):
            content = _joined(content, f"{record.where}: messages[{index}].content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return {"messages": messages}


def _joined(parts: list[Any], where: str) -> str:
    for number, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InputError(
                f"{where}[{number}]", "not a part of text", "pictures and calls are not read: leave them out"
            )
    return "".join(part["text"] for part in parts)


def _need(record: Record, name: str, kind: type) -> Any:
    if not isinstance(record.values.get(name), kind):
        found = type(record.values[name]).__name__ if name in record.values else "nothing"
        raise InputError(f"{record.where}: {name}", f"{kind.__name__} wanted, {found} there", "see `--from`'s forms")
    return record.values[name]


FORMS: dict[str, Callable[[Record], dict[str, Any]]] = {
    "alpaca": _alpaca, "sharegpt": _sharegpt, "messages": _openai,
}  # fmt: skip
