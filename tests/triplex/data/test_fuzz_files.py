"""Files of random bytes, and good files with random damage: rows of text or an InputError, never anything else."""

import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex.data.files import FORMATS, open_file
from triplex.data.rows import Row, read_rows
from triplex.data.sources import by_role
from triplex.runs.errors import InputError

ROWS = [{"id": n, "text": f"the {n}th kettle, it's «good»\tand it\u2028boils", "label": n % 2} for n in range(6)]


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out, row_group_size=3, write_page_checksum=True, compression="zstd")
    return out.getvalue()


GOOD = {
    ".txt": "".join(f"{row['text']}\n" for row in ROWS).encode(),
    ".csv": ("id,text,label\n" + "".join(f'{r["id"]},"{r["text"]}",{r["label"]}\n' for r in ROWS)).encode(),
    ".json": json.dumps(ROWS).encode(),
    ".jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode(),
    ".parquet": parquet(),
}
NASTY = [
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b'"', b'""', b"'", b"\\", b"\\u0000", b"\\ud800", b"\r", b"\n\n",
    b",", b";", b"[", b"{", b"}" * 3, b"[" * 2000, b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b'"text"',
    b'"messages": [{"role": 1}], ', b'"label": [], ', b'"prompt": {}, ', b'"id": null, ', b"outs:\n- md5: 0\n", b"PAR1",
    b"\x1f\x8b", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
]  # fmt: skip

places = st.floats(0, 1)
damage = st.one_of(
    st.tuples(st.just("flip"), places, st.integers(1, 255)),
    st.tuples(st.just("cut"), places, st.just(0)),
    st.tuples(st.just("drop"), places, st.integers(1, 40)),
    st.tuples(st.just("twice"), places, st.integers(1, 400)),
    st.tuples(st.just("put"), places, st.sampled_from(NASTY) | st.binary(min_size=1, max_size=20)),
)


def damaged(content: bytes, kind: str, place: float, value: int | bytes) -> bytes:
    at = int(place * len(content))
    match kind, value:
        case "flip", int():
            return content[:at] + bytes(byte ^ value for byte in content[at : at + 1]) + content[at + 1 :]
        case "cut", _:
            return content[:at]
        case "drop", int():
            return content[:at] + content[at + value :]
        case "twice", int():
            return content[: at + value] + content[at:]
        case _:
            assert isinstance(value, bytes)
            return content[:at] + value + content[at:]


def read(content: bytes, ending: str) -> tuple[int, int] | None:
    """(records read, rows of text among them), or None after an InputError that names the file and says what to do."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rows{ending}")
        path.write_bytes(content)
        counts: Counter[str] = Counter()
        try:
            records = (by_role(record, {}) for record in open_file(path).records())
            rows = list(read_rows(records, prompt_words=2, max_words=20, counts=counts))
        except InputError as error:
            told = error
        else:
            check_rows(rows)
            return counts["read"], len(rows)
    assert str(path) in told.where
    assert told.what
    assert told.remedy
    assert len(str(told)) < 3000
    return None


def check_rows(rows: list[Row]) -> None:
    """What every reader of rows counts on."""
    for row in rows:
        assert row.prompt.strip()
        assert "\0" not in row.text
        row.text.encode("utf-8")
        assert row.label in (0, 1, None)


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_damaged_here_is_read_while_it_is_whole(ending: str) -> None:
    assert read(GOOD[ending], ending) == (6, 6)


@pytest.mark.parametrize("ending", FORMATS)
@settings(max_examples=60, deadline=None)
@given(damages=st.lists(damage, min_size=1, max_size=4))
def test_a_damaged_file_gives_rows_or_an_error_in_words(
    ending: str, damages: list[tuple[str, float, int | bytes]]
) -> None:
    content = GOOD[ending]
    for kind, place, value in damages:
        content = damaged(content, kind, place, value)
    read(content, ending)


@pytest.mark.parametrize("ending", FORMATS)
@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_give_rows_or_an_error_in_words(ending: str, content: bytes) -> None:
    read(content, ending)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(["id", "text", "prompt", "completion", "chosen", "rejected", "messages", "label", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["role", "content", "y"]), inner, max_size=3)
                ),
                max_leaves=6,
            ),
            max_size=5,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_json_in_the_place_of_text_gives_rows_or_an_error_in_words(rows: list[dict[str, object]]) -> None:
    read("".join(json.dumps(row) + "\n" for row in rows).encode(), ".jsonl")


def test_a_flipped_bit_of_a_parquet_file_is_never_another_text() -> None:
    """Pages carry checksums; what is beside them says where they are and what they are called."""
    texts, content = {row["text"] for row in ROWS}, GOOD[".parquet"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.parquet")
        for at in range(0, len(content), 11):
            path.write_bytes(damaged(content, "flip", at / len(content), 1 << at % 8))
            try:
                found = {record.values.get("text") for record in open_file(path).records()}
            except InputError:
                continue
            assert {text for text in found if isinstance(text, str)} <= texts
