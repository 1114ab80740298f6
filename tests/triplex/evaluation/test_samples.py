import math

import pyarrow as pa
import pytest

from triplex.evaluation.samples import MAX_CHARS, MAX_PROMPTS, clip, scores, side_by_side

SAMPLES = pa.Table.from_pylist(
    [
        {
            "id": name, "model": model, "prompt": f"prompt {name}", "response": f" {model} says", "num_tokens": 2,
            "kl_nats": math.nan, "reward": 1.5, "sentiment": 0.75, "word_nats": 2.0, "rewards/sentiment": 1.5,
            "rewards/length": -0.002, "rewards/copy": -2.0, "token_starts": [0, 6], "token_nats": [3.0, 0.5],
        }
        for model in ("other", "first") for name in ("b", "a")
    ]
)  # fmt: skip


def test_a_row_is_a_prompt_with_the_answer_of_each_model() -> None:
    rows = side_by_side(SAMPLES)
    assert [row.prompt for row in rows] == ["prompt b", "prompt a"]
    assert [list(row.answers) for row in rows] == [["other", "first"]] * 2
    answer = rows[0].answers["first"]
    assert answer.pieces == [(" first", 3.0), (" says", 0.5)]
    assert answer.num_left_out == 0


def test_an_answer_has_every_score_and_the_parts_of_its_reward_by_size() -> None:
    names = [score.column for score in scores(SAMPLES)]
    assert names == [
        "reward", "rewards/sentiment", "rewards/length", "rewards/copy", "sentiment", "num_tokens", "kl_nats",
        "word_nats",
    ]  # fmt: skip
    answer = side_by_side(SAMPLES)[0].answers["other"]
    assert list(answer.scores) == names
    assert answer.scores["word_nats"] == pytest.approx(math.exp(2.0))  # perplexity
    assert answer.scores["kl_nats"] is None
    assert answer.parts == [("copy", -2.0), ("sentiment", 1.5)]


def test_a_long_answer_is_cut_between_its_characters_and_says_how_much_is_left_out() -> None:
    row = SAMPLES.to_pylist()[0]
    long = row | {
        "response": "x" * (MAX_CHARS + 7),
        "token_starts": [0, MAX_CHARS - 2, MAX_CHARS],
        "token_nats": [1.0] * 3,
    }
    answer = side_by_side(pa.Table.from_pylist([long], schema=SAMPLES.schema))[0].answers["other"]
    assert [len(piece.text) for piece in answer.pieces] == [MAX_CHARS - 2, 2]
    assert answer.num_left_out == 7
    assert clip("x" * MAX_CHARS) == "x" * MAX_CHARS
    assert clip("x" * (MAX_CHARS + 7)).endswith("x … (7 more characters)")


def test_of_many_prompts_the_first_are_read() -> None:
    rows = [row | {"id": f"{n:05d}"} for n in range(MAX_PROMPTS + 20) for row in SAMPLES.to_pylist()[::2]]
    assert len(side_by_side(pa.Table.from_pylist(rows, schema=SAMPLES.schema))) == MAX_PROMPTS
