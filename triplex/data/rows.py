"""Records in TRL's dataset forms into rows of one form: a prompt, its completion, a label, a worse completion.

A row keeps `prompt + completion` equal to the cleaned text, spacing included. Words are runs of characters other than
white space; in scripts written without spaces (Chinese, Japanese) one character is a word, punctuation joins it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from triplex.data.files import Record
from triplex.runs.errors import InputError
from triplex.runs.params import nearest

Role = Literal["id", "text", "prompt", "completion", "reference", "chosen", "rejected", "messages", "label"]
ROLES: tuple[Role, ...] = get_args(Role)
FORMS = (
    ("text",),
    ("messages",),
    ("prompt", "completion"),
    ("prompt", "completion", "reference"),
    ("prompt", "completion", "reference", "text"),
    ("prompt", "chosen", "rejected"),
)
LABELS = {"0": 0, "negative": 0, "neg": 0, "false": 0, "1": 1, "positive": 1, "pos": 1, "true": 1}

_UNSPACED = "\u3041-\u3096\u30a1-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}][^\w\s]*|[^\s{_UNSPACED}]+")
_LINE_SEPARATORS = re.compile("[\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Row:
    """`prompt + completion` is the text; `label` 1 positive, 0 negative; `rejected` a worse completion.

    `reference` is the human text that a response is measured against, where that is not the completion; `passage` what
    the base model reads, where that is not the text.
    """

    prompt: str
    completion: str
    label: int | None = None
    rejected: str | None = None
    reference: str | None = None
    passage: str | None = None

    @property
    def text(self) -> str:
        """The whole text."""
        return self.prompt + self.completion


def words(text: str) -> list[str]:
    """The words of `text`, punctuation included."""
    return _WORD.findall(text)


def _stop(error: InputError) -> None:
    raise error


def read_rows(
    records: Iterable[Record],
    prompt_words: int,
    max_words: int,
    counts: Counter[str],
    refuse: Callable[[InputError], None] = _stop,
) -> Iterator[Row]:
    """The rows of records whose values are keyed by role; `counts` takes what was read, skipped and changed.

    Blank rows and rows whose prompt leaves no room for a completion are skipped. A record of another form, with a
    null, a control character, an unknown label or message role, or an `id` seen before is an InputError: `refuse`
    takes it, and raises it unless the caller wants to hear of all.
    """
    seen: dict[str, int] = {}
    for record in records:
        counts["read"] += 1
        try:
            _refuse_id_seen(record, seen)
            row = _read_row(record, prompt_words, max_words, counts)
        except InputError as error:
            refuse(error)
            continue
        if row:
            yield row


def _refuse_id_seen(record: Record, seen: dict[str, int]) -> None:
    if "id" in record.values:
        name = str(record.values["id"])
        if seen.setdefault(name, record.number) != record.number:
            raise InputError(record.where, f"id {name!r} as in {record.unit} {seen[name]}", "one id a row")


def truncate(text: str, num_words: int) -> str:
    """`text` up to the end of its word `num_words`."""
    for number, word in enumerate(_WORD.finditer(text), start=1):
        if number == num_words:
            return text[: word.end()]
    return text


def clean(text: Any, where: str, counts: Counter[str]) -> str:
    """`text` in NFC with line feeds as line ends; byte order marks go, line separators become counted spaces."""
    if not isinstance(text, str):
        raise InputError(where, f"holds {'null' if text is None else type(text).__name__}, not text", "mend the row")
    if "\0" in text:
        raise InputError(where, f"NUL at character {text.index(chr(0))}", "delete it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        what = f"lone surrogate \\u{ord(text[error.start]):04x} at character {error.start}"
        raise InputError(where, what, "write the whole pair of surrogates, or the character itself") from error
    text, num_separators = _LINE_SEPARATORS.subn(" ", text)
    counts["line_separators"] += num_separators
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text)


def read_label(value: Any, where: str) -> int | None:
    """1, 0 or, for null and an empty cell, None."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with nulls is one of floats in many tools
    try:
        return LABELS[str(value).strip().casefold()]
    except KeyError:
        raise InputError(f"{where}: label", f"unknown label {value!r}", f"one of {', '.join(LABELS)}") from None


def _read_row(record: Record, prompt_words: int, max_words: int, counts: Counter[str]) -> Row | None:
    values, where = record.values, record.where
    form = form_of(record)
    label = read_label(values.get("label"), where)
    texts = {role: clean(values[role], f"{where}: {role}", counts) for role in form if role != "messages"}
    if form == ("text",):
        return _split_text(texts["text"].strip(), label, prompt_words, max_words, counts)
    if form == ("messages",):
        prompt, *completions = _read_messages(values["messages"], where, counts)
    elif "reference" in form:
        return _with_reference(texts, label, max_words, counts)
    else:
        prompt, *completions = texts.values()
    return _pair(prompt, completions, label, max_words, counts)


def form_of(record: Record) -> tuple[str, ...]:
    """The one of FORMS whose roles a record has; InputError for a column too few or too many."""
    roles = record.values.keys() - {"id", "label"}
    for form in FORMS:
        if roles == set(form):
            return form
    closest = max(FORMS, key=lambda form: (len(roles & set(form) - {"text"}), -len(set(form) - roles)))
    missing = [role for role in closest if role not in roles]
    if not missing:
        choice = ", ".join(f"{role}: {role}" for role in closest)
        what = f"columns of several forms: {', '.join(sorted(roles))}"
        raise InputError(record.where, what, f"name those to read, e.g. data.source.columns: {{{choice}}}")
    others = sorted(roles - set(closest)) or record.ignored
    hint = f"did you mean {others[0]!r}?" if len(others) == 1 else nearest(missing[0], others)
    what = f"no column {missing[0]!r}"
    raise InputError(
        record.where,
        what,
        f"name yours in data.source.columns ({missing[0]}: COLUMN), or by --column {missing[0]}=COLUMN; {hint}",
    )


def _split_text(text: str, label: int | None, prompt_words: int, max_words: int, counts: Counter[str]) -> Row | None:
    if not text:
        counts["empty"] += 1
        return None
    short = truncate(text, max_words)
    counts["truncated"] += short != text
    prompt = truncate(short, prompt_words)
    return Row(prompt, short[len(prompt) :], label)


def _pair(prompt: str, completions: list[str], label: int | None, max_words: int, counts: Counter[str]) -> Row | None:
    """A row of a given prompt and one completion, or a chosen and a rejected one."""
    if not prompt.strip() or not all(completion.strip() for completion in completions):
        counts["empty"] += 1
        return None
    room = max_words - len(words(prompt))
    if room <= 0:
        counts["long_prompts"] += 1
        return None
    whole = [_after(prompt, completion) for completion in completions]
    completion, *rejected = cut = [truncate(text, room) for text in whole]
    counts["truncated"] += cut != whole
    if rejected == [completion]:
        counts["equal_pairs"] += 1
        rejected = []
    return Row(prompt.strip(), completion, label, *rejected)


def _with_reference(texts: dict[str, str], label: int | None, max_words: int, counts: Counter[str]) -> Row | None:
    """A row whose responses are measured by another text than the completion; both are cut as completions are."""
    row = _pair(texts["prompt"], [texts["completion"]], label, max_words, counts)
    other = _pair(texts["prompt"], [texts["reference"]], label, max_words, counts)
    if row is None or other is None:
        return None
    return replace(row, reference=other.completion, passage=texts.get("text", "").strip() or None)


def _after(prompt: str, completion: str) -> str:
    """What follows the stripped prompt: the white space between the two, a space where there is none."""
    rest = prompt.lstrip()[len(prompt.strip()) :] + completion.rstrip()
    return rest if rest[0].isspace() else f" {rest}"


def _read_messages(messages: Any, where: str, counts: Counter[str]) -> tuple[str, str]:
    """The turns before the last assistant turn, a line each, and that turn on a line of its own."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{where}: messages", "not a list of objects", '[{"role": "user", "content": "..."}, ...]')
    turns, last = [], None
    for index, message in enumerate(messages):
        if message.get("role") not in ("system", "user", "assistant"):
            raise InputError(
                f"{where}: messages[{index}]", f"unknown role {message.get('role')!r}", "system, user or assistant"
            )
        turns.append(clean(message.get("content"), f"{where}: messages[{index}].content", counts).strip())
        last = index if message["role"] == "assistant" else last
    if last is None:
        raise InputError(f"{where}: messages", "no assistant turn", "its last one is the completion")
    return "\n".join(turns[:last]), f"\n{turns[last]}"
