import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from triplex.perplexity.texts import Row, behind_first_sentence, read_texts, sample_texts
from triplex.runs.errors import InputError

TEXTS = [" It was cheap. I like it. ", "One, two; three"]


def test_every_format_is_read_by_its_ending_or_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{text}\r\n" for text in TEXTS), newline="")
    (tmp_path / "a.csv").write_text("body,label\n" + "".join(f'"{text}",1\n' for text in TEXTS))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    pq.write_table(pa.table({"body": TEXTS}), tmp_path / "a.parquet")
    (tmp_path / "a.pos").write_text("\n".join(TEXTS))
    left_out: Counter[str] = Counter()
    stripped = [Row("1", "", "It was cheap. I like it."), Row("2", "", "One, two; three")]
    assert read_texts(tmp_path / "a.txt", None, "text", None, left_out) == stripped
    assert read_texts(tmp_path / "a.pos", "txt", "text", None, left_out) == stripped
    for ending in ("csv", "jsonl", "parquet"):
        rows = read_texts(tmp_path / f"a.{ending}", None, "body", None, left_out)
        assert rows == [Row("1", "", TEXTS[0]), Row("2", "", TEXTS[1])]
    assert not left_out
    with pytest.raises(InputError, match=r"unknown format '\.pos'"):
        read_texts(tmp_path / "a.pos", None, "text", None, left_out)


def test_ids_contexts_and_blank_texts(tmp_path: Path) -> None:
    rows = [{"id": "x", "p": "The chair", "t": " broke"}, {"id": 7, "p": "", "t": " \n"}, {"id": 8, "p": "", "t": "a"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    left_out: Counter[str] = Counter()
    got = read_texts(tmp_path / "a.jsonl", None, "t", "p", left_out)
    assert got == [Row("x", "The chair", " broke"), Row("8", "", "a")]
    assert left_out == {"blank": 1}


def test_a_column_that_is_not_there_or_holds_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"review": "a", "n": 1, "none": null}\n')
    for column, what in (
        ("reviews", "line 1: no column 'reviews'\n  remedy: did you mean 'review'?"),
        ("n", "line 1: n holds int, not text"),
        ("none", "line 1: none holds null, not text"),
    ):
        with pytest.raises(InputError, match=what):
            read_texts(tmp_path / "a.jsonl", None, column, None, Counter())
        with pytest.raises(InputError, match=what):
            read_texts(tmp_path / "a.jsonl", None, "review", column, Counter())


def test_a_text_is_parted_behind_its_first_sentence() -> None:
    parts = [
        ("It was cheap.", " I like it. Very much!"),
        ('"Why?"', " He left.\n\nThen I went."),
        ("It is 1 @.@ 270 miles long .", " It is old ."),
        ("好。", "我来了。"),
        ("= A heading =", ""),
        ("No end here.Nor here", ""),
    ]
    left_out: Counter[str] = Counter()
    rows = [Row(str(number), "", first + rest) for number, (first, rest) in enumerate(parts)]
    assert behind_first_sentence(rows, left_out) == [
        Row(str(number), first, rest) for number, (first, rest) in enumerate(parts) if rest
    ]
    assert left_out == {"of one sentence": 2}


def test_a_sample_depends_on_ids_alone_and_keeps_the_order() -> None:
    rows = [Row(str(n), "", "a") for n in range(50)]
    chosen = sample_texts(rows, 8)
    assert len(chosen) == 8
    assert chosen == sorted(chosen, key=lambda row: int(row.id))
    assert sample_texts(rows[::-1], 8) == chosen[::-1]
    assert sample_texts(chosen, 8) == chosen
    assert chosen != rows[:8]
    assert sample_texts(rows, None) == sample_texts(rows, 99) == rows
