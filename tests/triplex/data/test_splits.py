from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from triplex.data.rows import Row
from triplex.data.splits import check_overlap, deduplicate, group_key, hash_fraction, split
from triplex.runs.errors import InputError

WORD = st.sampled_from(["a", "A", "b", "c", "é"])
PROMPT = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
LABEL = st.sampled_from([0, 1, None])
OTHER = st.sampled_from([None, " x", " y"])
ROWS = st.lists(
    st.builds(
        Row, PROMPT, PROMPT.map(lambda text: f" {text}"), LABEL, reference=OTHER, passage=st.sampled_from([None, "z"])
    ),
    max_size=30,
)


@settings(deadline=None)
@given(ROWS, ROWS, st.floats(0.1, 0.9))
def test_more_rows_never_move_the_old_ones(old: list[Row], new: list[Row], eval_frac: float) -> None:
    train, held_out = split(old, eval_frac)
    more_train, more_held_out = split(new + old, eval_frac)
    assert set(train) <= set(more_train)
    assert set(held_out) <= set(more_held_out)


@settings(deadline=None)
@given(ROWS, st.floats(0.1, 0.9))
@example([Row("a", " a A", 0), Row("a a", " a", 0), Row("a", " a", 0)], 0.5)
def test_the_two_sides_are_the_rows_and_share_no_prompt(rows: list[Row], eval_frac: float) -> None:
    train, held_out = split(deduplicate(rows, Counter()), eval_frac)
    assert {group_key(row.text) for row in train + held_out} == {group_key(row.text) for row in rows}
    assert not {row.prompt.casefold() for row in train} & {row.prompt.casefold() for row in held_out}
    check_overlap(train, held_out)


@settings(deadline=None)
@given(ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_removing_duplicates_does_not_depend_on_the_order(pair: tuple[list[Row], list[Row]]) -> None:
    counts = [Counter(), Counter()]
    found = [set(deduplicate(rows, count)) for rows, count in zip(pair, counts, strict=True)]
    assert found[0] == found[1]
    assert counts[0] == counts[1]


def test_the_fraction_of_a_prompt_is_its_hash() -> None:
    # SHA-256("abc") begins ba7816bf 8f01
    assert hash_fraction("abc") == 0xBA7816BF8F01 / 0x1000000000000


def test_about_the_asked_fraction_of_prompts_is_held_out() -> None:
    _, held_out = split([Row(f"prompt {number}", " x") for number in range(20_000)], 0.05)
    assert 900 < len(held_out) < 1100  # 1000, standard deviation 31


def test_prompts_that_differ_in_case_and_spacing_are_one_group() -> None:
    assert group_key("The  FILM\nwas") == group_key("the film was") != group_key("the film is")


@pytest.mark.parametrize(
    ("rows", "expected", "counted"),
    [
        pytest.param([Row("a", " b")] * 3, {Row("a", " b")}, {"duplicates": 2}, id="bad-10-duplicates"),
        pytest.param([Row("a", " b", 1), Row("a", " b")], {Row("a", " b", 1)}, {"duplicates": 1}, id="label-known"),
        pytest.param(
            [Row("a", " b", 1), Row("a", " b", 0)],
            {Row("a", " b")},
            {"duplicates": 1, "conflicting_labels": 1},
            id="labels-differ",
        ),
        pytest.param([Row("a b", " c"), Row("a", " b c")], {Row("a", " b c")}, {"duplicates": 1}, id="shortest-prompt"),
        pytest.param(
            [Row("a", " b", None, " c"), Row("a", " b", None, " d"), Row("a", " b")],
            {Row("a", " b", None, " c"), Row("a", " b", None, " d")},
            {"duplicates": 1},
            id="pairs-stay",
        ),
        pytest.param(
            [
                Row("a", " b", reference=" d"),
                Row("a", " b", reference=" c", passage="z"),
                Row("a", " b", 1, None, " d"),
            ],
            {Row("a", " b", 1, None, " c", "z")},
            {"duplicates": 2},
            id="first-reference-with-its-passage",
        ),
    ],
)
def test_one_row_per_text(rows: list[Row], expected: set[Row], counted: dict[str, int]) -> None:
    counts: Counter[str] = Counter()
    found = deduplicate(rows, counts)
    assert (set(found), len(found), +counts) == (expected, len(expected), Counter(counted))


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        pytest.param(Row("x y", " z"), "1 of 2 texts and 1 prompts", id="bad-11-exact"),
        pytest.param(Row("X  y", " Z"), "1 of 2 texts and 1 prompts", id="bad-11-normalised"),
        pytest.param(Row("x y", " other"), "0 of 2 texts and 1 prompts are in both, e.g. 'x y'", id="bad-11-prompt"),
        pytest.param(Row("x", " y z"), "1 of 2 texts and 0 prompts", id="bad-11-text-alone"),
    ],
)
def test_an_overlap_is_an_error(held_out: Row, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_overlap([Row("x y", " z"), Row("p", " q")], [held_out, Row("u", " v")])
