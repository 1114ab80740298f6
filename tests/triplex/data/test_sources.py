import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from triplex.data.files import Record
from triplex.data.reviews import generate_reviews
from triplex.data.sources import Material, Source, Stream, by_role, open_source
from triplex.data.stories import generate_stories
from triplex.runs.errors import InputError

SOURCE: TypeAdapter[Any] = TypeAdapter(Source)
#: of the three bytes "abc", as FIPS 180-2 gives it (appendix B.1)
ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.csv
  - split: test
    path: test.csv
dataset_info:
- config_name: default
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': {zero}
          '1': {one}
---
"""


def open_as(kind: str, **values: Any) -> Material:
    return open_source(SOURCE.validate_python({"kind": kind, **values}), seed=5)


def values(stream: Stream) -> list[dict[str, Any]]:
    return [record.values for record in stream.records]


def write_file(path: Path, text: str, **keys: Any) -> dict[str, Any]:
    """Write the file; its entry in a source, with its hash."""
    path.write_text(text)
    return {"path": str(path), "sha256": hashlib.sha256(text.encode()).hexdigest(), **keys}


def folder_of_a_data_set(folder: Path, zero: str = "pos", one: str = "neg") -> str:
    folder.mkdir()
    (folder / "README.md").write_text(CARD.format(zero=zero, one=one))
    (folder / "train.csv").write_text("text,label\nhow good,0\nhow bad,1\n")
    (folder / "test.csv").write_text("text,label\nno label,-1\n")
    return str(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_embedded_reviews_are_those_of_the_seed() -> None:
    (stream,) = open_as("embedded", num_reviews=20).train
    assert values(stream) == [{"text": review.text, "label": review.label} for review in generate_reviews(20, 5)]


def test_embedded_stories_are_those_of_the_seed() -> None:
    (stream,) = open_as("stories", num_stories=20).train
    expected = [
        {"prompt": story.prompt, "completion": story.plan, "reference": story.reference, "text": story.text}
        for story in generate_stories(20, 5)
    ]
    assert values(stream) == expected
    assert values(stream) == []  # read once
    assert open_as("stories", num_stories=1).held_out is None


def test_a_json_array_is_a_file_like_others(tmp_path: Path) -> None:
    text = '[{"body": "one", "gold": "two"}, {"body": "three", "gold": "four"}]'
    columns = {"prompt": "body", "reference": "gold"}
    for file in (write_file(tmp_path / "a.json", text), write_file(tmp_path / "b.data", text, format="json")):
        (stream,) = open_as("files", files=[file], columns=columns).train
        assert values(stream) == [{"prompt": "one", "reference": "two"}, {"prompt": "three", "reference": "four"}]


def test_files_with_constant_labels(tmp_path: Path) -> None:
    bad = write_file(tmp_path / "bad.txt", "awful\n", label=0)
    good = write_file(tmp_path / "good.txt", "lovely\nfine\n", label=1)
    material = open_as("files", files=[bad, good])
    assert [[(value["text"].strip(), value["label"]) for value in values(stream)] for stream in material.train] == [
        [("awful", 0)],
        [("lovely", 1), ("fine", 1)],
    ]
    assert material.held_out is None
    assert material.train[0].facts["sha256"] == hashlib.sha256(b"awful\n").hexdigest()


def test_evaluation_files_are_held_out(tmp_path: Path) -> None:
    train, held_out = write_file(tmp_path / "a.txt", "one\n"), write_file(tmp_path / "b.txt", "two\n")
    material = open_as("files", files=[train], eval_files=[held_out])
    assert material.held_out is not None
    assert [values(stream) for stream in material.held_out] == [[{"text": "two\n"}]]


def test_every_file_is_examined_before_any_is_read(tmp_path: Path) -> None:
    files = [write_file(tmp_path / "a.txt", "one\n"), {"path": f"{tmp_path}/b.txt"}]
    with pytest.raises(InputError, match="no such file"):
        open_as("files", files=files)


def test_a_given_format_takes_the_place_of_the_ending(tmp_path: Path) -> None:
    (stream,) = open_as("files", files=[write_file(tmp_path / "x.neg", "awful\ndull\n", format="txt")]).train
    assert values(stream) == [{"text": "awful\n"}, {"text": "dull\n"}]


@pytest.mark.parametrize("key", ["files", "eval_files"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({}, "no sha256 is given", id="bad-32-no-hash"),
        pytest.param({"sha256": "0" * 64}, f"SHA-256 is not {'0' * 64}", id="bad-32-another-hash"),
    ],
)
def test_a_file_without_its_hash_is_an_error_that_tells_it(
    tmp_path: Path, key: str, given: dict[str, str], message: str
) -> None:
    (tmp_path / "a.txt").write_text("abc")
    source = {"files": [write_file(tmp_path / "b.txt", "one\n")]}
    assert open_as("files", **{**source, key: [{"path": f"{tmp_path}/a.txt", "sha256": ABC_SHA256}]}).train
    with pytest.raises(InputError, match=rf"a\.txt: {message}.*\n.* sha256: {ABC_SHA256}$"):
        open_as("files", **{**source, key: [{"path": f"{tmp_path}/a.txt", **given}]})


RECORD = Record("a.csv", "row", 3, {"body": "a", "stars": 1, "text": "b", "url": "c"})


@pytest.mark.parametrize(
    ("columns", "constant", "expected", "ignored"),
    [
        pytest.param({}, {}, {"text": "b"}, ("body", "stars", "url"), id="bad-08-extra-columns"),
        pytest.param({"text": "body"}, {}, {"text": "a"}, ("stars", "text", "url"), id="named"),
        pytest.param(
            {"text": "body", "label": "stars"}, {}, {"text": "a", "label": 1}, ("text", "url"), id="label-named"
        ),
        pytest.param({}, {"label": 0}, {"text": "b", "label": 0}, ("body", "stars", "url"), id="constant"),
    ],
)
def test_columns_by_role(
    columns: dict[Any, str], constant: dict[str, int], expected: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    found = by_role(RECORD, columns, **constant)
    assert (found.values, found.ignored, found.where) == (expected, ignored, "a.csv row 3")


def test_bad_09_a_named_column_that_is_missing_is_an_error() -> None:
    with pytest.raises(InputError, match=r"a\.csv row 3: no column 'bdy'.*\n.*did you mean 'body'"):
        by_role(RECORD, {"text": "bdy"})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "embeded"}, "'embedded', 'stories', 'files', 'hub'"),
        ({"kind": "embedded", "num_reviews": 0}, "greater than or equal to 1"),
        ({"kind": "stories", "num_stories": 0}, "greater than or equal to 1"),
        ({"kind": "stories", "num_reviews": 5}, "Extra inputs"),
        ({"kind": "files", "files": []}, "at least 1 item"),
        ({"kind": "files", "files": [{"path": "a.txt", "label": 2}]}, "0 or 1"),
        ({"kind": "files", "files": [{"path": "a.txt", "label": None}]}, "leave the key out"),
        ({"kind": "files", "files": [{"path": "a.csv", "delimiter": "::"}]}, "at most 1 character"),
        (
            {"kind": "files", "files": [{"path": "a.neg", "format": ".txt"}]},
            "'txt', 'csv', 'json', 'jsonl' or 'parquet'",
        ),
        ({"kind": "files", "files": [{"path": "a.csv", "sha256": None}]}, "leave the key out"),
        ({"kind": "files", "files": [{"path": "a.csv"}], "columns": {"txt": "body"}}, "'text'"),
        ({"kind": "hub", "name": "org/x", "split": "train", "config": None}, "leave the key out"),
    ],
)
def test_a_bad_source_is_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SOURCE.validate_python(source)


def test_a_hub_data_set_keeps_the_names_of_its_classes(tmp_path: Path) -> None:
    name = folder_of_a_data_set(tmp_path / "reviews")
    (stream,) = open_as("hub", name=name, split="train").train
    assert values(stream) == [{"text": "how good", "label": "pos"}, {"text": "how bad", "label": "neg"}]
    assert len(stream.facts["sha256"]) == 64
    (unlabelled,) = open_as("hub", name=name, split="test").train
    assert values(unlabelled) == [{"text": "no label", "label": None}]


def test_a_hub_data_set_with_other_class_names_keeps_its_numbers(tmp_path: Path) -> None:
    name = folder_of_a_data_set(tmp_path / "letters", zero="ham", one="spam")
    (stream,) = open_as("hub", name=name, config="default", split="train[:1]").train
    assert values(stream) == [{"text": "how good", "label": 0}]


def test_a_hub_data_set_of_parquet_with_other_columns(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    pairs = pa.table({"question": ["q"], "good": ["g"], "bad": ["b"], "score": [1.0]})
    pq.write_table(pairs, tmp_path / "pairs" / "train.parquet")
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    (stream,) = open_as("hub", name=str(tmp_path / "pairs"), split="train", columns=columns).train
    (record,) = stream.records
    assert (record.values, record.ignored) == ({"prompt": "q", "chosen": "g", "rejected": "b"}, ("score",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "trian"}, "Unknown split"),
        ({"config": "defalt"}, "'defalt' not found"),
        ({"name": "no such name"}, "no such name"),
    ],
)
def test_a_wrong_name_in_a_hub_source_is_an_error(tmp_path: Path, change: dict[str, str], message: str) -> None:
    source = {"name": folder_of_a_data_set(tmp_path / "reviews"), "split": "train", **change}
    with pytest.raises(InputError, match=message):
        open_as("hub", **source)


def test_a_hub_data_set_with_code_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "coded").mkdir()
    (tmp_path / "coded" / "coded.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InputError, match="scripts are no longer supported"):
        open_as("hub", name=str(tmp_path / "coded"), split="train")
    assert not (tmp_path / "ran").exists()


def test_a_hub_data_set_without_a_network_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    code = (
        "from triplex.data.sources import HubSource, open_source\n"
        "open_source(HubSource(kind='hub', name='org/reviews', split='train'), 0)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "InputError: hub data set org/reviews: Couldn't reach" in done.stderr
    assert "remedy: connect to the network" in done.stderr
