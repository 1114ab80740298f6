import codecs
import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from triplex.data.files import MAX_LINE_BYTES, open_file
from triplex.runs.errors import InputError

Make = Callable[[Path], Path]


def write(name: str, content: bytes | str) -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def values(path: Path, delimiter: str = ",") -> list[dict]:
    return [record.values for record in open_file(path, delimiter).records()]


def parquet(table: pa.Table, compression: str = "none") -> Make:
    def make(folder: Path) -> Path:
        path = folder / "rows.parquet"
        pq.write_table(table, path, compression=compression, use_dictionary=False, write_page_checksum=True)
        return path

    return make


def parquet_without_footer(folder: Path) -> Path:
    path = parquet(pa.table({"text": ["one", "two"]}))(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def parquet_with_flipped_bit(folder: Path) -> Path:
    path = parquet(pa.table({"text": [f"sentence number {n}" for n in range(9)]}))(folder)
    content = bytearray(path.read_bytes())
    content[content.index(b"sentence number 5")] ^= 1
    path.write_bytes(content)
    return path


def parquet_bomb(folder: Path) -> Path:
    return parquet(pa.table({"text": ["na" * 5000] * 5000}), "zstd")(folder)


def parquet_of_one_text(folder: Path) -> Path:
    """Each text is stored once, and so it is counted in the footer."""
    path = folder / "rows.parquet"
    pq.write_table(pa.table({"text": ["na" * 5000] * 5000}), path, compression="zstd")
    assert pq.read_metadata(path).row_group(0).total_byte_size < 20_000
    return path


def loop(folder: Path) -> Path:
    (folder / "rows.txt").symlink_to(folder / "rows.txt")
    return folder / "rows.txt"


def dangling(folder: Path) -> Path:
    (folder / "rows.txt").symlink_to("gone.txt")
    return folder / "rows.txt"


def directory(folder: Path) -> Path:
    (folder / "rows.csv").mkdir()
    return folder / "rows.csv"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "rows.txt")
    return folder / "rows.txt"


def misspelt(folder: Path) -> Path:
    (folder / "reviews.csv").write_text("text\na\n")
    return folder / "review.csv"


def not_pulled(folder: Path) -> Path:
    (folder / "rows.csv.dvc").write_text("outs:\n- md5: 0\n")
    return folder / "rows.csv"


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
DVC = "outs:\n- md5: a304afb96060aad90176268345e10355\n  size: 14445097\n  hash: md5\n  path: rows.txt\n"
BROKEN = '{"text": "x"}\n' * 5000 + '{"text": "x\n' + '{"text": "x"}\n' * 4999


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(write("a.csv", ""), ["a.csv", "0 bytes"], id="bad-01-empty-file"),
        pytest.param(write("a.csv", "text,label\n"), ["a.csv", "no rows"], id="bad-02-csv-header-only"),
        pytest.param(write("a.jsonl", "\n"), ["a.jsonl", "no rows"], id="bad-02-jsonl-no-rows"),
        pytest.param(write("a.txt", codecs.BOM_UTF8), ["a.txt", "no rows"], id="bad-02-byte-order-mark-only"),
        pytest.param(parquet(pa.table({"text": pa.array([], pa.string())})), ["no rows"], id="bad-02-parquet-no-rows"),
        pytest.param(parquet_without_footer, ["rows.parquet", "damaged", "dvc checkout"], id="bad-04-parquet-cut"),
        pytest.param(parquet_with_flipped_bit, ["damaged", "CRC"], id="bad-05-parquet-page-checksum"),
        pytest.param(
            write("a.jsonl", BROKEN), ["a.jsonl line 5001 column", "one whole JSON"], id="bad-12-jsonl-broken-line"
        ),
        pytest.param(write("a.jsonl", '[{"text": "a"}]'), ["line 1", "array", "to .json"], id="bad-13-json-array"),
        pytest.param(write("a.json", "[]"), ["a.json", "no rows"], id="bad-02-json-no-rows"),
        pytest.param(
            write("a.json", '[{"a": 1},\n {"a": 2},\n {"a": }]'),
            ["a.json line 3 column 8", "Expecting value"],
            id="bad-12-json-broken",
        ),
        pytest.param(write("a.json", '[{"a": 1}'), ["line 1 column 10", "one array of"], id="bad-12-json-cut"),
        pytest.param(
            write("a.json", '{"a": 1}\n{"a": 2}\n'), ["line 2", "Extra data", ".jsonl"], id="bad-13-json-lines-as-json"
        ),
        pytest.param(write("a.json", '{"rows": [{"a": 1}]}'), ["holds dict", "not an array"], id="bad-13-json-object"),
        pytest.param(write("a.json", '"text"'), ["holds str"], id="bad-13-json-text"),
        pytest.param(write("a.json", '[{"a": 1}, ["b"]]'), ["a.json object 2", "holds list"], id="bad-14-json-element"),
        pytest.param(write("a.json", '[{"a": NaN}]'), ["NaN is not JSON"], id="bad-14-json-array-nan"),
        pytest.param(write("a.json", "[" * 99999), ["a.json", "recursion"], id="bad-14-json-array-deep"),
        pytest.param(write("a.json", '[{"a": ' + "9" * 5000 + "}]"), ["digits"], id="bad-14-json-array-huge-number"),
        pytest.param(write("a.json", '["caf\xe9"]'.encode("latin-1")), ["byte 5 (0xe9)"], id="bad-16-latin-1-json"),
        pytest.param(write("a.jsonl", '{"r": 1}\n{"r": NaN}\n'), ["line 2", "NaN is not JSON"], id="bad-14-json-nan"),
        pytest.param(write("a.jsonl", '{"r": -Infinity}\n'), ["line 1", "-Infinity"], id="bad-14-json-infinity"),
        pytest.param(write("a.jsonl", "[" * 99999), ["line 1"], id="bad-14-json-deep-array"),
        pytest.param(write("a.jsonl", '{"a": ' * 99999), ["line 1", "recursion"], id="bad-14-json-deep-objects"),
        pytest.param(write("a.jsonl", '{"r": ' + "9" * 5000 + "}"), ["line 1", "digits"], id="bad-14-json-huge-number"),
        pytest.param(write("a.jsonl", '{"r": 1}\n"text"\n'), ["line 2", "holds str"], id="bad-14-json-no-object"),
        pytest.param(
            write("a.txt", "fine\ncaf\xe9 noir\n".encode("latin-1")),
            ["a.txt line 2", "byte 8 (0xe9)", "iconv -f latin1"],
            id="bad-16-latin-1",
        ),
        pytest.param(
            write("a.csv", "text\ncaf\xe9\n".encode("latin-1")), ["line 2", "byte 8"], id="bad-16-latin-1-csv"
        ),
        pytest.param(write("a.csv", "text\na\n".encode("utf-16")), ["UTF-16", "byte 0"], id="bad-16-utf-16"),
        pytest.param(write("a.txt", "text".encode("utf-16-le")), ["NUL at byte 1"], id="bad-16-utf-16-unmarked"),
        pytest.param(write("a.txt", b"one\ntw\0o\n"), ["line 2", "NUL at byte 6"], id="bad-17-nul"),
        pytest.param(
            write("a.jsonl", b"{}\n" + b"x" * 50_000_000), ["line 2", "longer than 10000000"], id="bad-18-long-line"
        ),
        pytest.param(misspelt, ["no such file", "did you mean 'reviews.csv'?"], id="bad-28-missing"),
        pytest.param(not_pulled, ["no such file", "dvc pull"], id="bad-28-missing-but-under-dvc"),
        pytest.param(lambda folder: folder / "no" / "a.txt", ["there is no folder"], id="bad-28-missing-folder"),
        pytest.param(lambda folder: folder / "a.txt", ["no such file", "no .txt"], id="bad-28-missing-alone"),
        pytest.param(directory, ["rows.csv", "a directory"], id="bad-28-directory"),
        pytest.param(fifo, ["rows.txt", "a pipe"], id="bad-28-fifo"),
        pytest.param(loop, ["rows.txt", "symbolic links", "it is a link to"], id="bad-28-link-to-itself"),
        pytest.param(dangling, ["no such file", "it is a link to gone.txt"], id="bad-28-link-to-nothing"),
        pytest.param(write("a.xlsx", "PK"), ["'.xlsx'", ".parquet", "`format`"], id="bad-28-unknown-format"),
        pytest.param(write("a.jsonl", gzip.compress(b"{}" * 9)), ["packed with gzip"], id="bad-29-gzip-as-jsonl"),
        pytest.param(write("a.csv", b"PK\x03\x04"), ["packed with zip"], id="bad-29-zip-as-csv"),
        pytest.param(parquet_bomb, ["unpacks from"], id="bad-29-parquet-bomb"),
        pytest.param(parquet_of_one_text, ["unpacks from", "bytes or more"], id="bad-29-parquet-bomb-by-dictionary"),
        pytest.param(write("a.csv", b"PAR1...."), ["parquet, read as .csv"], id="bad-29-parquet-as-csv"),
        pytest.param(write("a.parquet", LFS), ["Git LFS pointer", "git lfs pull"], id="bad-30-lfs-pointer"),
        pytest.param(write("a.txt", DVC), [".dvc pointer", "dvc pull"], id="bad-30-dvc-pointer"),
        pytest.param(
            write("a.csv", "text;label\ngood, bad;1\n"), ["one column", 'delimiter: ";"'], id="bad-31-semicolons"
        ),
        pytest.param(write("a.csv", "text\tlabel\na\t1\n"), ['delimiter: "\t"'], id="bad-31-tabs"),
        pytest.param(
            write("a.csv", 'text,label\n"a",1\nb,1,234\n'),
            ["a.csv row 2", "Expected 2 columns, got 3", "quotes"],
            id="bad-31-thousands-comma",
        ),
        pytest.param(
            write("a.csv", 'text,label\na,1\n"b,1\nc,0\n'), ["row 2", "quote is closed"], id="bad-31-open-quote"
        ),
        pytest.param(write("a.csv", "text,text\na,b\n"), ["occurs twice"], id="bad-31-column-twice"),
        pytest.param(write("a.csv", "x" * 200_000 + "\na\n"), ["header"], id="bad-31-giant-header"),
    ],
)
def test_a_bad_file_is_an_error_in_words(tmp_path: Path, make: Make, words: list[str]) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError) as caught:
        values(path)
    assert all(word in str(caught.value).lower() or word in str(caught.value) for word in [path.name, *words])
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        pytest.param("a.txt", b"\xef\xbb\xbfone\ntwo", [{"text": "one\n"}, {"text": "two"}], id="bad-15-bom-txt"),
        pytest.param("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n', [{"text": "a"}], id="bad-15-bom-jsonl"),
        pytest.param("a.csv", b"\xef\xbb\xbftext\na\n", [{"text": "a"}], id="bad-15-bom-csv"),
        pytest.param("a.json", b'\xef\xbb\xbf[{"text": "a"}]', [{"text": "a"}], id="bad-15-bom-json"),
        pytest.param("a.json", b'[\r\n {"n": 1},\r\n\r\n {"n": [2]}\r\n]\r\n', [{"n": 1}, {"n": [2]}], id="json-array"),
        pytest.param("a.JSON", '[{"text": "a\u2028b\\u00e9"}]'.encode(), [{"text": "a\u2028b\u00e9"}], id="escape"),
        pytest.param("a.jsonl", b'{"n": 1}\r\n\r\n{"n": 2}\r\n', [{"n": 1}, {"n": 2}], id="bad-17-crlf"),
        pytest.param("a.txt", "a\u2028b\x85c\n".encode(), [{"text": "a\u2028b\x85c\n"}], id="bad-17-one-line"),
        pytest.param(
            "a.csv",
            b'text,label\n"a ""b"", c\r\nd",1\nNA,\n',
            [{"text": 'a "b", c\r\nd', "label": "1"}, {"text": "NA", "label": ""}],
            id="bad-31-quotes-and-newlines",
        ),
        pytest.param("a.CSV", b"\ntext,n\n007,1e5\n", [{"text": "007", "n": "1e5"}], id="bad-31-cells-stay-text"),
    ],
)  # fmt: skip
def test_odd_but_readable_files(tmp_path: Path, name: str, content: bytes, expected: list[dict]) -> None:
    assert values(write(name, content)(tmp_path)) == expected


def test_a_given_delimiter_is_used(tmp_path: Path) -> None:
    assert values(write("a.csv", "text;n\na, b;1\n")(tmp_path), ";") == [{"text": "a, b", "n": "1"}]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array(["a", "b"], pa.large_string()), id="bad-06-large-string"),
        pytest.param(pa.array(["a", "b"]).dictionary_encode(), id="bad-06-dictionary"),
        pytest.param(pa.array(["a", "b"], pa.string_view()), id="bad-06-string-view"),
    ],
)
def test_every_arrow_string_type_is_text(tmp_path: Path, column: pa.Array) -> None:
    assert values(parquet(pa.table({"text": column}))(tmp_path)) == [{"text": "a"}, {"text": "b"}]


def test_parquet_with_invalid_utf8_is_an_error(tmp_path: Path) -> None:
    column = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xe9")])
    with pytest.raises(InputError, match="UTF8"):
        values(parquet(pa.table({"text": column}))(tmp_path))


def test_a_line_at_the_limit_is_read(tmp_path: Path) -> None:
    path = write("a.txt", b"x" * (MAX_LINE_BYTES - 1) + b"\n")(tmp_path)
    assert len(values(path)[0]["text"]) == MAX_LINE_BYTES


def test_an_array_may_stand_on_one_line_of_any_length(tmp_path: Path) -> None:
    path = write("a.json", '[{"text": "' + "x" * MAX_LINE_BYTES + '"}]')(tmp_path)
    assert len(values(path)[0]["text"]) == MAX_LINE_BYTES


def test_bad_18_an_array_above_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triplex.data.files.MAX_JSON_BYTES", 8)
    with pytest.raises(InputError, match=r"14 bytes, above the limit of 8 for one array\n  remedy: one object a line"):
        open_file(write("a.json", '[{"text": ""}]')(tmp_path))


def test_bad_31_a_quoted_newline_at_the_end_of_a_block_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triplex.data.files.MAX_LINE_BYTES", 32)
    path = write("a.csv", "text,n\n" + '"one\ntwo\nthree",1\n' * 50)(tmp_path)
    assert values(path) == [{"text": "one\ntwo\nthree", "n": "1"}] * 50


def test_records_say_where_they_stand(tmp_path: Path) -> None:
    lines = open_file(write("a.jsonl", '{"a": 1}\n\n{"a": 2}\n')(tmp_path)).records()
    assert [record.where for record in lines] == [f"{tmp_path}/a.jsonl line 1", f"{tmp_path}/a.jsonl line 3"]
    objects = open_file(write("a.json", '[{"a": 1},\n\n{"a": 2}]')(tmp_path)).records()
    assert [record.where for record in objects] == [f"{tmp_path}/a.json object 1", f"{tmp_path}/a.json object 2"]
    rows = open_file(write("a.csv", 'a\n"x\ny"\nz\n')(tmp_path)).records()
    assert [record.where for record in rows] == [f"{tmp_path}/a.csv row 1", f"{tmp_path}/a.csv row 2"]


def test_facts_of_a_file_are_those_of_its_bytes(tmp_path: Path) -> None:
    content = json.dumps({"text": "caf\u00e9"}, ensure_ascii=False).encode() + b"\r\n"
    file = open_file(write("a.jsonl", content)(tmp_path))
    assert (file.sha256, file.num_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.write_text("other\n" * 3), id="bad-32-rewritten"),
        pytest.param(lambda path: os.utime(path, ns=(1, 1)), id="bad-32-touched"),
        pytest.param(lambda path: path.unlink(), id="bad-32-deleted"),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = write("a.txt", "one\ntwo\n")(tmp_path)
    records = open_file(path).records()
    next(records)
    change(path)
    with pytest.raises(InputError, match="changed while it was read"):
        list(records)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_bad_28_a_file_without_permission_is_an_error(tmp_path: Path) -> None:
    path = write("a.txt", "one\n")(tmp_path)
    path.chmod(0)
    with pytest.raises(InputError, match="no permission to read it"):
        open_file(path)


def test_bad_28_a_link_out_of_the_project_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    outside = write("outside.txt", "one\n")(tmp_path)
    (project / "data" / "link.txt").symlink_to(outside)
    (project / "data" / "inner.txt").symlink_to(write("own.txt", "two\n")(project))
    monkeypatch.chdir(project)
    with pytest.raises(InputError, match="outside the project"):
        open_file(Path("data/link.txt"))
    assert values(Path("data/inner.txt")) == [{"text": "two\n"}]
    assert values(outside) == values(Path("../outside.txt")) == [{"text": "one\n"}]
