import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex.data.card import summary
from triplex.data.derive import DataConfig, Prepared, derive_tables, prepare, row_id
from triplex.data.rows import Row
from triplex.data.stories import generate_stories
from triplex.data.tables import SCHEMAS, read_table, write_table
from triplex.runs.errors import InputError

NOUNS = ("film", "plot", "cast", "score", "ending", "pace", "hero", "set", "song", "joke")
PLAIN = {"prompt_words": 2, "min_completion_words": 2, "max_words": 12, "eval_frac": 0.3, "num_eval_prompts": 3}


def config(*files: dict[str, Any], eval_files: tuple[dict[str, Any], ...] = (), **changes: Any) -> DataConfig:
    source = {"kind": "files", "files": list(files), "eval_files": list(eval_files)}
    return DataConfig.model_validate({**PLAIN, "source": source, **changes})


def write_lines(path: Path, lines: list[str]) -> dict[str, Any]:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def reviews(tone: str) -> list[str]:
    return [f"the {noun} was {tone} and {degree} so" for noun in NOUNS for degree in ("very", "quite")]


def two_files(folder: Path, order: int = 0) -> list[dict[str, Any]]:
    files = []
    for label, tone in enumerate(("dull", "fine")):
        lines = reviews(tone)
        random.Random(order).shuffle(lines)
        files.append({**write_lines(folder / f"{tone}.txt", lines), "label": label})
    return files if order == 0 else files[::-1]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return prepare(config(*two_files(tmp_path)), seed=0)


def held_out_prompts() -> set[str]:
    """The prompts on the eval side, worked out apart from the library."""
    prompts = {f"the {noun}" for noun in NOUNS}
    return {p for p in prompts if int(hashlib.sha256(p.encode()).hexdigest()[:12], 16) / 16**12 < PLAIN["eval_frac"]}


def test_the_split_goes_by_prompt(prepared: Prepared) -> None:
    held_out, prompts = held_out_prompts(), {f"the {noun}" for noun in NOUNS}
    assert 0 < len(held_out) < len(prompts)
    assert {row["prompt"] for row in prepared.tables["prompts"]} == prompts - held_out
    assert {row["prompt"] for row in prepared.tables["sft"]} == prompts - held_out
    assert {row["prompt"] for row in prepared.tables["eval"]} <= held_out
    assert len(prepared.tables["eval"]) == min(len(held_out), PLAIN["num_eval_prompts"])


def test_the_corpus_is_the_training_text_and_sft_its_halves(prepared: Prepared) -> None:
    lines = reviews("dull") + reviews("fine")
    train = [line for line in lines if " ".join(line.split()[:2]) not in held_out_prompts()]
    assert sorted(row["text"] for row in prepared.tables["corpus"]) == sorted(train)
    assert {row["id"]: row["prompt"] + row["completion"] for row in prepared.tables["sft"]} == {
        row["id"]: row["text"] for row in prepared.tables["corpus"]
    }
    assert all(row["label"] == ("fine" in row["text"]) for row in prepared.tables["corpus"])


def test_preferences_use_each_row_once(prepared: Prepared) -> None:
    pairs = prepared.tables["preferences"]
    assert len(pairs) == 2 * (len(NOUNS) - len(held_out_prompts()))
    assert all("fine" in row["chosen"] and "dull" in row["rejected"] for row in pairs)
    assert len({(row["prompt"], row["chosen"]) for row in pairs}) == len(pairs)
    assert len({(row["prompt"], row["rejected"]) for row in pairs}) == len(pairs)


def test_ids_are_hashes_of_the_text_and_give_the_order(prepared: Prepared) -> None:
    assert row_id("abc") == "ba7816bf8f01cfea"
    for name, columns in {"corpus": ["text"], "prompts": ["prompt"], "sft": ["prompt", "completion"]}.items():
        table = prepared.tables[name]
        texts = ["".join(row[column] for column in columns) for row in table]
        assert [row["id"] for row in table] == sorted(hashlib.sha256(t.encode()).hexdigest()[:16] for t in texts)
    pair = prepared.tables["preferences"][0]
    triple = f"{pair['prompt']}\0{pair['chosen']}\0{pair['rejected']}"
    assert pair["id"] == hashlib.sha256(triple.encode()).hexdigest()[:16]


def test_the_order_of_rows_and_files_changes_no_table(tmp_path: Path, prepared: Prepared) -> None:
    assert prepare(config(*two_files(tmp_path, order=3)), seed=0).tables == prepared.tables


ROWS = st.lists(
    st.builds(
        Row,
        st.sampled_from(["a b", "A b", "c d", "e f"]),
        st.lists(st.sampled_from("xyz"), min_size=1, max_size=4).map(lambda letters: " " + " ".join(letters)),
        st.sampled_from([0, 1, None]),
        reference=st.sampled_from([None, " r", " s"]),
        passage=st.sampled_from([None, "one passage", "another"]),
    ),
    unique_by=lambda row: row.text,
)


@settings(deadline=None)
@given(ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))), st.integers(1, 4))
def test_tables_do_not_depend_on_the_order_of_rows(pair: tuple[list[Row], list[Row]], num_eval_prompts: int) -> None:
    assert derive_tables(pair[0], pair[0], 2, num_eval_prompts) == derive_tables(pair[1], pair[1], 2, num_eval_prompts)


def test_one_evaluation_row_per_prompt_by_the_hash_of_the_prompt() -> None:
    rows = [Row(prompt, f" x y {number}") for prompt in ("p one", "p two", "p three") for number in range(3)]
    by_hash = sorted({row.prompt for row in rows}, key=lambda prompt: hashlib.sha256(prompt.encode()).hexdigest())
    found = derive_tables(rows, rows, 2, 2)["eval"]
    assert {row["prompt"] for row in found} == set(by_hash[:2])
    for row in found:
        texts = [f"{row['prompt']} x y {number}" for number in range(3)]
        assert row["prompt"] + row["completion"] == min(texts, key=lambda t: hashlib.sha256(t.encode()).hexdigest())


def test_a_prompt_is_measured_by_its_reference_else_by_its_completion() -> None:
    rows = [Row("p q", " x y", reference=" gold p"), Row("s t", " u v")]
    tables = derive_tables(rows, rows, 2, 9)
    asked = {"p q": " gold p", "s t": " u v"}
    assert {row["prompt"]: row["reference"] for row in tables["prompts"]} == asked
    assert {row["prompt"]: row["reference"] for row in tables["eval"]} == asked
    assert {row["prompt"]: row["completion"] for row in tables["eval"]} == {"p q": " x y", "s t": " u v"}


def test_the_reference_is_that_of_the_row_which_stands_for_the_prompt() -> None:
    rows = [Row("p q", f" x y {number}", reference=f" gold {number}") for number in range(5)]
    first = min(rows, key=lambda row: hashlib.sha256(row.text.encode()).hexdigest())
    tables = derive_tables(rows, rows, 2, 9)
    assert [row["reference"] for row in tables["prompts"]] == [first.reference]
    assert [(row["completion"], row["reference"]) for row in tables["eval"]] == [(first.completion, first.reference)]


def test_the_base_model_reads_the_passage_where_there_is_one() -> None:
    rows = [Row("p q", " x y", 1, reference=" gold", passage="all of it"), Row("s t", " u v", 0)]
    tables = derive_tables(rows, [], 2, 9)
    assert {row["text"]: row["label"] for row in tables["corpus"]} == {"all of it": 1, "s t u v": 0}
    assert {row["id"] for row in tables["corpus"]} == {row_id("all of it"), row_id("s t u v")}
    assert {row["id"] for row in tables["sft"]} == {row_id("p q x y"), row_id("s t u v")}


def test_every_row_has_the_columns_of_its_table(prepared: Prepared) -> None:
    for name, table in prepared.tables.items():
        assert {frozenset(row) for row in table} == {frozenset(SCHEMAS[name].names)}, name
    assert SCHEMAS["prompts"].names == ["id", "prompt", "reference"]
    assert SCHEMAS["eval"].names == ["id", "prompt", "completion", "reference", "label"]


def test_tables_with_references_are_written_and_read(tmp_path: Path, prepared: Prepared) -> None:
    for name, rows in prepared.tables.items():
        write_table(tmp_path / f"{name}.parquet", rows, SCHEMAS[name])
        assert read_table(tmp_path / f"{name}.parquet", SCHEMAS[name]).to_pylist() == rows


def test_short_rows_are_in_the_corpus_alone() -> None:
    tables = derive_tables([Row("a b", " c"), Row("d e", " f g")], [Row("h i", " j")], 2, 9)
    assert [len(tables[name]) for name in ("corpus", "sft", "prompts", "eval")] == [2, 1, 1, 0]


def test_given_preferences_are_kept(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "chosen": f"yes {n} indeed", "rejected": f"no {n}"} for n in range(30)]
    file = write_lines(tmp_path / "pairs.jsonl", [json.dumps(row) for row in rows])
    tables = prepare(config(file, num_eval_prompts=30), seed=0).tables
    train = {row["prompt"] for row in tables["prompts"]}
    assert {row["prompt"] for row in tables["preferences"]} == train
    assert train | {row["prompt"] for row in tables["eval"]} == {row["prompt"] for row in rows}
    for row in tables["preferences"]:
        number = row["prompt"].split()[1]
        assert (row["chosen"], row["rejected"]) == (f" yes {number} indeed", f" no {number}")


def preference_file(folder: Path, **columns: str) -> dict[str, Any]:
    names = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"} | columns
    pairs = [("one side", "fair", "foul"), ("other side", "good", "bad"), ("other side", "good", "bad")]
    lines = [json.dumps(dict(zip(names.values(), pair, strict=True)) | {"url": "x"}) for pair in pairs]
    return write_lines(folder / "pairs.jsonl", lines)


@pytest.mark.parametrize("columns", [{}, {"prompt": "question", "chosen": "better", "rejected": "worse"}])
def test_preference_files_take_the_place_of_labelled_pairs(
    tmp_path: Path, prepared: Prepared, columns: dict[str, str]
) -> None:
    file = preference_file(tmp_path, **columns)
    given = prepare(config(*two_files(tmp_path), preferences={"files": [file], "columns": columns}), seed=0)
    assert {(row["prompt"], row["chosen"], row["rejected"]) for row in given.tables["preferences"]} == {
        ("one side", " fair", " foul"),
        ("other side", " good", " bad"),
    }
    for name in ("corpus", "sft", "prompts", "eval"):
        assert given.tables[name] == prepared.tables[name]
    assert [source["name"] for source in given.card["sources"]][2:] == [file["path"]]
    assert given.card["sources"][2]["sha256"] == file["sha256"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        pytest.param(['{"text": "one two three four"}'], "no row with two different completions", id="no-pairs"),
        pytest.param(
            ['{"prompt": "p", "chosen": "c", "rejected": "c"}'], "no row with two different", id="bad-25-equal-pairs"
        ),
        pytest.param(['{"prompt": "p", "chosen": "c"}'], "no column 'rejected'", id="bad-09-no-rejected"),
        pytest.param(['{"prompt": "p", "chosen": "c", "rejected": null}'], "rejected: holds null", id="bad-07-null"),
        pytest.param(['{"prompt": " ", "chosen": "c", "rejected": "d"}'], "no row with text", id="bad-03-blank"),
    ],
)
def test_preference_files_without_pairs_are_an_error(tmp_path: Path, lines: list[str], said: str) -> None:
    file = write_lines(tmp_path / "pairs.jsonl", lines)
    with pytest.raises(InputError, match=said):
        prepare(config(*two_files(tmp_path), preferences={"files": [file]}), seed=0)


def test_preference_files_are_pinned_by_their_hash(tmp_path: Path) -> None:
    file = preference_file(tmp_path) | {"sha256": "0" * 64}
    with pytest.raises(InputError, match=f"pairs.jsonl: SHA-256 is not {'0' * 64}"):
        prepare(config(*two_files(tmp_path), preferences={"files": [file]}), seed=0)


@pytest.mark.parametrize(
    ("preferences", "said"),
    [
        pytest.param(None, "leave the key out", id="bad-38-null"),
        pytest.param({"files": []}, "at least 1 item", id="bad-40-no-files"),
        pytest.param({"files": [{"path": "a.csv"}], "columns": {"choosen": "x"}}, "'chosen'", id="bad-36-role"),
    ],
)
def test_a_bad_preference_section_is_refused(preferences: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config({"path": "a.txt"}, preferences=preferences)


def test_a_row_of_a_given_pair_is_in_no_other_pair() -> None:
    rows = [Row("p q", " fine so far", 1, " a bore"), Row("p q", " dull so far", 0)]
    pairs = derive_tables(rows, [], 2, 9)["preferences"]
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [(" fine so far", " a bore")]


def test_the_card_counts_what_happened(tmp_path: Path) -> None:
    lines = [f"noun{n} verb{n} one two three" for n in range(40)]
    odd = ["", lines[0], "too short", "long " * 20, "sep\u2028arated words are here"]
    csv = ["text,label,url"] + [f"{line},{n % 2},x" for n, line in enumerate(lines + odd)]
    card = prepare(config(write_lines(tmp_path / "rows.csv", csv)), seed=0).card
    assert card["counts"]["read"] == 45
    assert card["counts"]["kept"] == 43
    assert [card["counts"][name] for name in ("empty", "duplicates", "truncated", "line_separators")] == [1, 1, 1, 1]
    assert card["counts"]["short"] == 1  # "too short", whose hash is on the training side
    assert card["ignored_columns"] == ["url"]
    # the blank row 40 and the repeated row 41 (label 1, the first has 0) are gone
    assert card["labels"] == {"positive": 21, "negative": 21, "unknown": 1}
    assert card["words"] == {"median": 5, "max": 12, "vocabulary": 2 * 40 + 3 + 2 + 1 + 5}
    assert card["split"]["train"] + card["split"]["held_out"] == 43
    assert card["sources"][0]["sha256"] == hashlib.sha256((tmp_path / "rows.csv").read_bytes()).hexdigest()
    assert "columns not read: url" in summary(card)
    assert "1 duplicate rows removed" in summary(card)


@pytest.mark.parametrize(
    ("name", "lines", "word"),
    [
        pytest.param("a.txt", ["", "  ", "\t"], "no row with text", id="bad-03-all-blank"),
        pytest.param("a.jsonl", ['{"text": " "}'] * 3, "no row with text", id="bad-03-all-blank-jsonl"),
        pytest.param("a.txt", ["one two three four"], "from 1 rows", id="too-few-rows"),
        pytest.param("a.txt", ["one"] * 9, "0 training and 0 held-out", id="too-short"),
    ],
)
def test_a_source_without_enough_text_is_an_error(tmp_path: Path, name: str, lines: list[str], word: str) -> None:
    with pytest.raises(InputError, match=word):
        prepare(config(write_lines(tmp_path / name, lines)), seed=0)


def test_evaluation_files_are_the_evaluation(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.txt", reviews("fine"))
    other = write_lines(tmp_path / "eval.txt", ["a story that holds up", "a tale that falls apart"])
    tables = prepare(config(train, eval_files=(other,)), seed=0).tables
    assert {row["prompt"] for row in tables["eval"]} == {"a story", "a tale"}
    assert len(tables["corpus"]) == len(reviews("fine"))


def test_bad_11_an_overlap_with_the_evaluation_files_is_an_error(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.txt", reviews("fine"))
    other = write_lines(tmp_path / "eval.txt", [reviews("fine")[0].upper(), "a tale that falls apart"])
    with pytest.raises(InputError, match=r"1 of 2 texts and 1 prompts are in both.*'THE FILM WAS FINE"):
        prepare(config(train, eval_files=(other,)), seed=0)


def test_embedded_reviews_make_every_table() -> None:
    source = {"kind": "embedded", "num_reviews": 400}
    values = {**PLAIN, "prompt_words": 3, "max_words": 120, "source": source}
    first, second = (prepare(DataConfig.model_validate(values), seed=2) for _ in range(2))
    assert first == second
    assert all(first.tables[name] for name in ("corpus", "sft", "prompts", "eval"))


def test_embedded_stories_make_every_table_that_a_plan_needs() -> None:
    """The response is a plan, the reference what follows it; the base model reads whole stories, plan and all."""
    values = {**PLAIN, "max_words": 160, "source": {"kind": "stories", "num_stories": 60}}
    first, second = (prepare(DataConfig.model_validate(values), seed=2) for _ in range(2))
    assert first == second
    stories = {story.prompt: story for story in generate_stories(60, 2)}
    for table in ("prompts", "eval"):
        assert first.tables[table]
        for row in first.tables[table]:
            assert row["reference"] == stories[row["prompt"]].reference
    assert all(row["completion"] == stories[row["prompt"]].plan for row in first.tables["sft"])
    asked = {row["prompt"] for row in first.tables["prompts"]}
    assert {row["text"] for row in first.tables["corpus"]} == {stories[prompt].text for prompt in asked}
    assert not asked & {row["prompt"] for row in first.tables["eval"]}


def test_limits_that_leave_no_row_are_refused() -> None:
    with pytest.raises(ValueError, match="no row would be left"):
        config({"path": "a.txt"}, max_words=3)
