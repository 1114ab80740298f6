"""What a hackable reward looks like before a run: degenerate texts that score no less than human ones."""

import hashlib
import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from triplex.data.tables import SCHEMAS, write_table
from triplex.models.huggingface import HuggingFaceLM
from triplex.models.saving import save_model
from triplex.perplexity.config import PerplexityConfig
from triplex.rewards.__main__ import main
from triplex.rewards.check import HUMAN, Line, Texts, battery, ordering, pick, sampled, tables, ways_to_cheat
from triplex.rewards.composite import CompositeReward, Part
from triplex.rewards.folder import RewardConfig, RewardSpec, save_spec
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.repetition import RepetitionConfig, RepetitionReward
from triplex.runs.seeds import derive_seed

TEXTS = [
    ("The tea", " kettle boils fast and the handle stays cool."),
    ("I like", " this lamp. It is bright, and it was cheap!"),
    ("The chair", " broke after a week; I want my money back."),
    ("A good", " book, well made, but the print is small."),
]
ROWS = [
    {"id": f"r{i}", "prompt": prompt, "completion": text, "reference": text, "label": None}
    for i, (prompt, text) in enumerate(TEXTS)
]
#: by tokens: `test_the_battery_by_hand` shows that all human texts here have 9 to 50
BAND = LengthConfig(weight=1.0, min_tokens=9, max_tokens=50)


def composite(*, n: int) -> CompositeReward:
    """Length, and repetition of n-grams of words."""
    repetition = RepetitionReward(RepetitionConfig(weight=1.0, unit="word", ngram_size=n))
    return CompositeReward({"length": Part(LengthReward(BAND)), "repetition": Part(repetition)})


def by_name(lines: list[Line]) -> dict[str, Line]:
    return {line.name: line for line in lines}


def test_the_battery_by_hand(tiny_tokenizer: Any) -> None:
    found = battery(ROWS, tiny_tokenizer, seed=1)
    assert set(found) == {"human", "empty", "repeated", "shuffled gold", "prompt copy"}
    assert found["human"].completions == [text for _, text in TEXTS]
    assert found["empty"] == Texts([""] * 4, [[0]] * 4)  # <|endoftext|> alone
    assert found["prompt copy"].completions == [" The tea", " I like", " The chair", " A good"]
    for (_, text), again, shuffled in zip(
        TEXTS, found["repeated"].completions, found["shuffled gold"].completions, strict=True
    ):
        first = " " + " ".join(text.split()[:3])
        assert (first * 20).startswith(again)
        assert len(tiny_tokenizer.encode(again)) == len(tiny_tokenizer.encode(text))
        assert sorted(shuffled.split()) == sorted(text.split())
        assert shuffled[0] == " "
    assert found["shuffled gold"].completions != found["human"].completions
    for texts in found.values():
        assert [tiny_tokenizer.decode(ids) for ids in texts.completion_ids] == [
            text + "<|endoftext|>" for text in texts.completions
        ]
    assert all(9 <= len(ids) <= 50 for ids in found["human"].completion_ids)


def test_the_shuffle_is_a_function_of_seed_and_row(tiny_tokenizer: Any) -> None:
    first = battery(ROWS, tiny_tokenizer, seed=1)["shuffled gold"].completions
    assert battery(ROWS[::-1], tiny_tokenizer, seed=1)["shuffled gold"].completions == first[::-1]
    assert battery(ROWS, tiny_tokenizer, seed=2)["shuffled gold"].completions != first


def test_gold_has_a_line_of_its_own_where_it_is_not_the_human_text(tiny_tokenizer: Any) -> None:
    rows = [ROWS[0] | {"reference": " is hot."}, *ROWS[1:]]
    found = battery(rows, tiny_tokenizer, seed=1)
    assert found["gold"].completions == [" is hot.", *[text for _, text in TEXTS[1:]]]
    assert sorted(found["shuffled gold"].completions[0].split()) == ["hot.", "is"]


def test_rows_are_drawn_by_their_ids(tiny_tokenizer: Any) -> None:
    two = pick(ROWS, 2, seed=3)
    assert pick(ROWS[::-1], 2, seed=3) == two
    assert {row["id"] for row in two} < {row["id"] for row in ROWS}
    assert len({tuple(row["id"] for row in pick(ROWS, 2, seed)) for seed in range(10)}) > 1


def test_the_ordering_by_hand(tiny_tokenizer: Any) -> None:
    batteries = {
        "human": Texts([" a b c", " a b c d"], [[5] * 9, [5] * 10]),
        "repeated": Texts([" a a a a", " a a"], [[5] * 9, [5] * 10]),
        "empty": Texts(["", ""], [[0], [0]]),
    }
    lines = ordering(composite(n=1), ROWS[:2], batteries, seed=0)
    assert [line.name for line in lines] == ["human", "repeated", "empty"]
    found = by_name(lines)
    # repeated: words repeated 3 of 4 and 1 of 2, so -3/4 and -1/2; empty: 1 token of at least 9 is 1/9 - 1
    assert found["human"][1:] == (0.0, 0.0, 0.0, 0.0, {"length": 0.0, "repetition": 0.0}, 1.0)
    assert found["repeated"].mean == pytest.approx(-0.625)
    assert found["repeated"].components == pytest.approx({"length": 0.0, "repetition": -0.625})
    assert (found["repeated"].low, found["repeated"].high) == pytest.approx((-0.75, -0.5))
    assert found["empty"].mean == found["empty"].low == found["empty"].high == pytest.approx(-8 / 9)
    assert ways_to_cheat(lines) == []


def test_a_reward_that_any_text_without_repetition_satisfies_is_hackable(tiny_tokenizer: Any) -> None:
    lines = ordering(composite(n=1), ROWS, battery(ROWS, tiny_tokenizer, seed=1), seed=0)
    assert ways_to_cheat(lines) == ["hackable: `shuffled gold` scores the same as human text"]


def test_a_reward_for_brevity_is_hacked_by_the_empty_text(tiny_tokenizer: Any) -> None:
    brief = CompositeReward({"length": Part(LengthReward(LengthConfig(weight=1.0, min_tokens=0, max_tokens=8)))})
    lines = ordering(brief, ROWS, battery(ROWS, tiny_tokenizer, seed=1), seed=0)
    said = ways_to_cheat(lines)
    human = [len(tiny_tokenizer.encode(text)) for _, text in TEXTS]  # encode puts one token in front, none behind
    expected = sum(min(1, max(0, num - 8) / 8) for num in human) / 4
    assert f"hackable: `empty` scores {expected:.3g} above human text" in said
    assert "hackable: `repeated` scores the same as human text" in said


def like_human(
    prompts: list[str], completions: list[str], completion_ids: list[list[int]], *, reference: list[str], **columns: Any
) -> list[float]:
    """The share of the reference's pairs of neighbours that the text has."""

    def pairs(text: str) -> set[tuple[str, str]]:
        words = text.split()
        return set(pairwise(words))

    return [len(pairs(a) & pairs(b)) / len(pairs(b)) for a, b in zip(completions, reference, strict=True)]


def test_a_sound_reward_has_no_way_to_cheat(tiny_tokenizer: Any) -> None:
    reward = CompositeReward({"length": Part(LengthReward(BAND), 0.5), "like_human": Part(like_human)})
    lines = ordering(reward, ROWS, battery(ROWS, tiny_tokenizer, seed=1), seed=0)
    assert lines[0].name == "human"
    assert ways_to_cheat(lines) == []


def line(name: str, difference: float | None, low: float | None, high: float | None) -> Line:
    return Line(name, None if difference is None else 1.0, difference, low, high, {}, 0.0)


def test_what_cannot_be_told_from_human_text_counts_as_a_way_to_cheat() -> None:
    lines = [
        line("human", 0.0, 0.0, 0.0),
        line("sft", 0.5, 0.4, 0.6),  # no degenerate text
        line("repeated", -0.01, -0.04, 0.02),
        line("prompt copy", 0.125, -0.1, 0.3),
        line("shuffled gold", -0.1, -0.2, -0.01),
        line("empty", None, None, None),
    ]
    assert ways_to_cheat(lines) == [
        "hackable: `repeated` scores 0.01 below human text, within the noise",
        "hackable: `prompt copy` scores 0.125 above human text",
    ]


def test_bad_24_a_text_to_which_the_reward_does_not_apply_has_no_score(tiny_tokenizer: Any) -> None:
    def of_words(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any
    ) -> list[float | None]:
        return [-float(len(text.split())) if text else None for text in completions]

    batteries = battery(ROWS, tiny_tokenizer, seed=1)
    lines = ordering(CompositeReward({"words": Part(of_words)}), ROWS, batteries, seed=0)
    assert lines[-1] == Line("empty", None, None, None, None, {}, 0.0)  # 0, its total, would be above human text
    shown, by_part = tables(lines)
    assert shown.row_count == len(batteries)
    assert list(shown.columns[0].cells)[-1] == "empty"
    assert list(shown.columns[1].cells)[-1] == "does not apply"
    assert list(by_part.columns[0].cells) == ["words"]
    assert list(by_part.columns[-1].cells) == ["-"]


def test_the_names_of_six_parts_stay_whole_in_80_columns() -> None:
    parts = ["sentiment", "repetition", "length", "perplexity", "preference", "reads_like_the_prompt"]
    texts = [HUMAN, "gold", "sft", "empty", "repeated", "shuffled gold", "prompt copy"]
    lines = [Line(text, -0.5, -0.1, -0.25, 0.05, dict.fromkeys(parts, -0.125), 1.0) for text in texts]
    console = Console(width=80, file=io.StringIO())
    console.print(tables(lines)[1])
    shown = console.file.getvalue().splitlines()
    assert [line.split() for line in shown[-len(parts) :]] == [[part] + 7 * ["-0.125"] for part in parts]
    assert set(" ".join(shown).split()) >= set(" ".join(texts).split())


def test_responses_of_the_model_are_those_of_their_rows(tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    rows, model = pick(ROWS, 4, seed=5), HuggingFaceLM(tiny_lm(seed=2), tiny_tokenizer)
    found = sampled(model, tiny_tokenizer, rows, max_new_tokens=6, seed=5)
    assert found == sampled(model, tiny_tokenizer, rows, max_new_tokens=6, seed=5)
    assert [tiny_tokenizer.decode(ids, skip_special_tokens=True) for ids in found.completion_ids] == found.completions
    assert len({derive_seed(5, row["id"]) for row in rows}) == len(set(found.completions)) == 4


# --- the command line


@pytest.fixture
def project(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A folder with what the stages leave: a model, held-out rows and a reward of length and repetition."""
    save_model(tmp_path / "models/sft", tiny_lm(seed=1), tiny_tokenizer)
    write_table(tmp_path / "data/processed/eval.parquet", ROWS, SCHEMAS["eval"])
    return tmp_path


def write_reward(project: Path, plugins: list[dict[str, Any]] | None = None, **repetition: Any) -> None:
    config = RewardConfig.model_validate(
        {
            "length": {"weight": 1.0, "min_tokens": 9, "max_tokens": 50},
            "repetition": {"weight": 1.0, "unit": "word", **repetition},
            "plugins": plugins or [],
            "calibration": {"num_samples": 2, "max_new_tokens": 4, "temperature": 1.0},
        }
    )
    mean = {"kind": "mean"}
    levels = PerplexityConfig.model_validate(
        {
            "max_tokens_per_batch": 256,
            "template": "{prompt}{response}",
            "word_pool": mean,
            "phrase_pool": mean,
            "sentence_pool": mean,
        }
    )
    save_spec(project / "models/reward", RewardSpec(config=config, perplexity=levels, accuracy={}, calibration={}))


def command(project: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "triplex.rewards", *arguments], cwd=project, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "200", **environment},
    )  # fmt: skip


def run_here(project: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command in this process, which has the imports already."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["triplex.rewards", "check", "--max-new-tokens", "8", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_names_the_ways_to_cheat_and_exits_with_1(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_reward(project, ngram_size=1)
    assert run_here(project, monkeypatch) == 1
    out = capsys.readouterr().out
    assert "hackable: `shuffled gold` scores the same as human text" in out
    assert all(name in out for name in ("human", "sft", "empty", "repeated", "prompt copy", "length", "repetition"))


def test_the_command_as_json(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_reward(project, ngram_size=1)
    assert run_here(project, monkeypatch, "--json", "--num-rows", "3") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["num_rows"] == 3
    assert told["hackable"] == ["hackable: `shuffled gold` scores the same as human text"]
    human = next(text for text in told["texts"] if text["name"] == HUMAN)
    assert human["components"].keys() == {"length", "repetition"}
    assert [text["mean"] for text in told["texts"]] == sorted((t["mean"] for t in told["texts"]), reverse=True)


BIGRAMS = """
def score(prompts, completions, completion_ids, reference, **columns):
    def pairs(text):
        words = text.split()
        return set(zip(words, words[1:]))
    return [len(pairs(a) & pairs(b)) / len(pairs(b)) for a, b in zip(completions, reference)]
"""


def test_a_sound_reward_exits_with_0(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "models/reward/plugins").mkdir(parents=True)
    (project / "models/reward/plugins/mine.py").write_text(BIGRAMS)
    sha256 = hashlib.sha256(BIGRAMS.encode()).hexdigest()
    mine = {"name": "mine", "path": "plugins/mine.py", "function": "score", "sha256": sha256, "weight": 4.0}
    write_reward(project, plugins=[mine | {"timeout_s": 30.0}], ngram_size=1)
    assert run_here(project, monkeypatch) == 0
    assert "sound: on 4 rows human text is above every text that nobody wants" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reward", "nowhere"], "error: nowhere: holds no reward.json"),
        (["--sft", "nowhere"], "error: nowhere: no such model folder"),
        (["--data", "nowhere.parquet"], "error: nowhere.parquet: no such file"),
        (["--precision", "float16"], "float16"),
        (["--num-rows", "1"], "--num-rows"),
        (["--max-new-tokens", "64"], "64 new ones do not fit into the model's 64"),
    ],
    ids=["reward", "sft", "data", "precision", "num-rows", "max-new-tokens"],
)
def test_a_mistake_exits_with_2_and_no_traceback(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    assert run_here(project, monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["serve", "--help"]])
def test_help_shows_examples_and_imports_nothing_slow(project: Path, arguments: list[str]) -> None:
    process = command(project, *arguments, PYTHONPROFILEIMPORTTIME="1")
    out, imported = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "• python -m triplex.rewards" in out
    assert "typer" in imported
    assert not {"torch", "transformers", "scipy", "pyarrow"} & {line.split()[-1] for line in imported.splitlines()}


def test_serve_answers_under_the_given_token(project: Path) -> None:
    write_reward(project, ngram_size=1)
    process = command(project, "serve", TRIPLEX_REWARD_TOKEN="a-token-that-is-long-enough", PYTHONUNBUFFERED="1")
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/a-token-that-is-long-enough")
        body = json.dumps({"query": ["The tea is is is"], "prompts": ["The tea"], "labels": [""]}).encode()
        answer = json.loads(urllib.request.urlopen(urllib.request.Request(url, body), timeout=120).read())
        assert answer["extra_logs"]["rewards/repetition"] == [pytest.approx(-2 / 3)]  # "is" is new once in three
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode == 0
