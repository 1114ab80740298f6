import unicodedata
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex.data.files import Record
from triplex.data.rows import Row, clean, read_label, read_rows, words
from triplex.runs.errors import InputError

TEXTS = st.text(
    st.one_of(
        st.sampled_from("ab \n\r\u2028\ufeffé\u0301天。🏽\u200d"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    )
)


def rows(*values: dict[str, Any], prompt_words: int = 2, max_words: int = 9) -> tuple[list[Row], Counter[str]]:
    counts: Counter[str] = Counter()
    records = (Record("a.jsonl", "line", number, value) for number, value in enumerate(values, start=1))
    return list(read_rows(records, prompt_words, max_words, counts)), +counts


def row(**value: Any) -> Row:
    (only,), _ = rows(value)
    return only


def conversation(*turns: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in (turn.split(": ", 1) for turn in turns)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": " one  two\tthree four "}, Row("one  two", "\tthree four")),
        ({"text": "one", "label": 1}, Row("one", "", 1)),
        ({"text": "\ufeffcafe\u0301 noir"}, Row("caf\u00e9 noir", "")),
        ({"prompt": "a", "completion": "b"}, Row("a", " b")),
        ({"prompt": " a \n", "completion": "b\n", "label": "pos"}, Row("a", " \nb", 1)),
        ({"prompt": "a", "completion": "\tb"}, Row("a", "\tb")),
        ({"prompt": "a", "chosen": "b", "rejected": " c"}, Row("a", " b", None, " c")),
        ({"prompt": "a", "completion": "b", "reference": "c"}, Row("a", " b", reference=" c")),
        ({"prompt": "a ", "completion": "b", "reference": " c\n", "label": 0}, Row("a", " b", 0, reference="  c")),
        (
            {"prompt": "a", "completion": "b", "reference": "c", "text": " a b\nc "},
            Row("a", " b", reference=" c", passage="a b\nc"),
        ),
        ({"prompt": "a", "completion": "b", "reference": "c", "text": " "}, Row("a", " b", reference=" c")),
        (
            {"messages": conversation("system: s", "user: u", "assistant: a", "user: v", "assistant: b", "user: w")},
            Row("s\nu\na\nv", "\nb"),
        ),
    ],
)
def test_each_form_becomes_a_row(value: dict[str, Any], expected: Row) -> None:
    assert row(**value) == expected


def test_the_reference_is_no_part_of_the_text() -> None:
    assert row(prompt="a", completion="b", reference="c").text == "a b"


@settings(deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_a_reference_is_read_as_a_completion_is(prompt: str, completion: str, reference: str) -> None:
    found, _ = rows({"prompt": prompt, "completion": completion, "reference": reference}, max_words=6)
    halves = [
        rows({"prompt": prompt, "completion": completion}, max_words=6)[0],
        rows({"prompt": prompt, "completion": reference}, max_words=6)[0],
    ]
    expected = [(a.prompt, a.completion, b.completion) for a, b in zip(*halves, strict=False)]
    assert [(one.prompt, one.completion, one.reference) for one in found] == expected


@settings(deadline=None)
@given(text=TEXTS, prompt_words=st.integers(1, 4))
def test_prompt_and_completion_are_the_cleaned_text(text: str, prompt_words: int) -> None:
    found, _ = rows({"text": text}, prompt_words=prompt_words, max_words=10**6)
    cleaned = clean(text, "here", Counter()).strip()
    assert [one.text for one in found] == ([cleaned] if cleaned else [])
    assert all(len(words(one.prompt)) == min(prompt_words, len(words(cleaned))) for one in found)


@settings(deadline=None)
@given(TEXTS)
def test_cleaning_is_stable_and_in_nfc(text: str) -> None:
    once = clean(text, "here", Counter())
    assert clean(once, "here", Counter()) == once == unicodedata.normalize("NFC", once)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_a_pair_keeps_its_words(prompt: str, completion: str) -> None:
    found, _ = rows({"prompt": prompt, "completion": completion}, max_words=10**6)
    for one in found:
        assert words(one.text) == words(one.prompt) + words(one.completion)
        assert one.prompt == one.prompt.strip()
        assert one.completion[0].isspace()


@pytest.mark.parametrize(
    ("values", "where", "word"),
    [
        pytest.param([{"text": 3}], "line 1: text", "holds int", id="bad-06-number"),
        pytest.param([{"text": ["a"]}], "line 1: text", "holds list", id="bad-06-list"),
        pytest.param([{"text": "a"}, {"text": None}], "line 2: text", "null", id="bad-07-null"),
        pytest.param([{"prompt": "a", "completion": None}], "completion", "null", id="bad-07-null-completion"),
        pytest.param(
            [{"text": "a", "completion": "b"}], "line 1", "did you mean 'text'?", id="bad-09-prompt-missing"
        ),
        pytest.param(
            [{"text": "a", "chosen": "b", "rejected": "c"}], "line 1", "no column 'prompt'", id="bad-09-prompt-of-pair"
        ),
        pytest.param([{"prompt": "a"}], "line 1", "no column 'completion'", id="bad-09-prompt-alone"),
        pytest.param(
            [{"prompt": "a", "reference": "b"}], "line 1", "no column 'completion'", id="bad-09-reference-alone"
        ),
        pytest.param([{"text": "a", "reference": "b"}], "line 1", "no column", id="bad-09-reference-of-a-text"),
        pytest.param(
            [{"prompt": "a", "chosen": "b", "rejected": "c", "reference": "d"}],
            "line 1",
            "several forms: chosen, prompt, reference, rejected",
            id="bad-09-reference-of-a-pair",
        ),
        pytest.param(
            [{"prompt": "a", "completion": "b", "reference": None}], "reference", "null", id="bad-07-null-reference"
        ),
        pytest.param(
            [{"prompt": "a", "completion": "b", "reference": "c", "text": 1}], ": text", "int", id="bad-06-passage"
        ),
        pytest.param([{}], "line 1", "no column 'text'", id="bad-09-nothing"),
        pytest.param([{"text": "a", "messages": []}], "line 1", "several forms", id="bad-09-two-forms"),
        pytest.param([{"id": 7, "text": "a"}, {"id": 7, "text": "b"}], "line 2", "as in line 1", id="bad-10-id"),
        pytest.param([{"text": "a\0"}], "line 1: text", "NUL at character 1", id="bad-17-nul"),
        pytest.param([{"text": "ab\ud83d"}], "line 1: text", "\\ud83d at character 2", id="bad-17-lone-surrogate"),
        pytest.param([{"text": "a", "label": "yes"}], "line 1: label", "'yes'", id="bad-26-yes"),
        pytest.param([{"text": "a", "label": 5}], "line 1: label", "negative", id="bad-26-five"),
        pytest.param([{"text": "a", "label": 0.5}], "line 1: label", "0.5", id="bad-26-half"),
        pytest.param([{"text": "a", "label": float("nan")}], "line 1: label", "nan", id="bad-26-nan"),
        pytest.param(
            [{"messages": conversation("human: a", "assistant: b")}], "messages[0]", "'human'", id="bad-27-role"
        ),
        pytest.param([{"messages": conversation("user: a")}], "messages", "no assistant", id="bad-27-no-assistant"),
        pytest.param([{"messages": "user: a"}], "messages", "not a list", id="bad-27-text"),
        pytest.param(
            [{"messages": [{"role": "assistant", "content": None}]}], "messages[0].content", "null", id="bad-27-null"
        ),
    ],
)  # fmt: skip
def test_a_bad_row_is_an_error_in_words(values: list[dict[str, Any]], where: str, word: str) -> None:
    with pytest.raises(InputError) as caught:
        rows(*values)
    assert caught.value.where.startswith("a.jsonl line")
    assert where in caught.value.where
    assert word in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("value", "counted", "expected"),
    [
        pytest.param({"text": " \n"}, {"empty": 1}, None, id="bad-03-blank"),
        pytest.param({"text": "a\u2028b\r\nc\rd"}, {"line_separators": 1}, Row("a b", "\nc\nd"), id="bad-17-line-ends"),
        pytest.param(
            {"text": "w " * 10**6}, {"truncated": 1}, Row("w w", " w w w w w w w"), id="bad-19-a-million-words"
        ),
        pytest.param({"prompt": "p " * 9, "completion": "c"}, {"long_prompts": 1}, None, id="bad-23-long-prompt"),
        pytest.param(
            {"prompt": "p " * 8, "completion": "c d"}, {"truncated": 1}, Row("p p p p p p p p", " c"), id="bad-23-room"
        ),
        pytest.param({"prompt": "p", "completion": " "}, {"empty": 1}, None, id="bad-24-empty-completion"),
        pytest.param(
            {"prompt": "p", "completion": "c", "reference": " "}, {"empty": 1}, None, id="bad-24-empty-reference"
        ),
        pytest.param(
            {"prompt": "p " * 7, "completion": "c", "reference": "r s t"}, {"truncated": 1},
            Row("p p p p p p p", " c", reference=" r s"), id="bad-19-long-reference",
        ),
        pytest.param(
            {"prompt": "p", "chosen": "c", "rejected": " c "}, {"equal_pairs": 1}, Row("p", " c"), id="bad-25-equal"
        ),
    ],
)  # fmt: skip
def test_what_is_skipped_or_changed_is_counted(
    value: dict[str, Any], counted: dict[str, int], expected: Row | None
) -> None:
    found, counts = rows(value)
    assert found == ([expected] if expected else [])
    assert counts == Counter(read=1, **counted)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Well, it is-fine !", ["Well,", "it", "is-fine", "!"], id="latin"),
        pytest.param("今天。天气好", ["今", "天。", "天", "气", "好"], id="bad-20-chinese"),
        pytest.param("カメラは good", ["カ", "メ", "ラ", "は", "good"], id="bad-20-japanese"),
        pytest.param("👩‍👩‍👧 ok", ["👩‍👩‍👧", "ok"], id="bad-20-emoji-joined"),
        pytest.param("שלום עולם", ["שלום", "עולם"], id="bad-20-right-to-left"),
        pytest.param("...", ["..."], id="bad-21-punctuation"),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, 1) for value in (1, "1", True, "True", " POS ", "Positive", 1.0)),
        *((value, 0) for value in (0, "0", False, "false", "neg", "negative", 0.0)),
        *((value, None) for value in (None, "")),
    ],
)
def test_bad_26_spellings_of_a_label(value: Any, expected: int | None) -> None:
    assert read_label(value, "here") == expected
