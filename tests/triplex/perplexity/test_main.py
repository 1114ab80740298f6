import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from triplex.models.saving import save_model
from triplex.perplexity.__main__ import Weights, main
from triplex.perplexity.baselines import EMPTY_COLUMNS, NATS_COLUMNS, read_baselines, scorer_identity, text_sha256
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.improvement import WEIGHTS
from triplex.perplexity.levels import LEVELS, PLAIN_POOLS
from triplex.perplexity.scorer import FrozenScorer

LINES = [
    "The tea kettle boils fast. I like it.",
    "",
    "The chair broke after a week; I want my money back. It was cheap! A good book.",
    "I like this lamp.",
    "I " * 80,
]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Any, tiny_tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("main") / "model"
    save_model(folder, tiny_lm(), tiny_tokenizer)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(LINES))
    return tmp_path / "texts.txt"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["perplexity", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()  # type: ignore[return-value]

    return command


def test_one_text_as_json(run: Run, model: Path, tiny_lm: Any, tiny_tokenizer: Any) -> None:
    code, out, _ = run("score", "--model", model, "--text", LINES[0], "--weights", "code", "--pools", "plain", "--json")
    assert code == 0
    report = json.loads(out)
    expected = FrozenScorer(tiny_lm(), tiny_tokenizer, pools=PLAIN_POOLS).score([""], [LINES[0]])[0]
    (text,) = report["texts"]
    assert text["num_tokens"] == len(expected.nats)
    assert list(text["nats"]) == list(LEVELS)
    assert list(text["nats"].values()) == pytest.approx(expected.levels.tolist(), abs=1e-5)
    _, word, phrase, sentence = (math.exp(nats) for nats in expected.levels.tolist())
    assert list(text["perplexity"].values())[1:] == pytest.approx([word, phrase, sentence], rel=1e-4)
    assert text["weighted_perplexity"] == pytest.approx(0.4 * word + 0.5 * phrase + 0.1 * sentence, rel=1e-4)
    assert report["left_out"] == {}
    assert {**report["total"], "id": "text"} == {**text, "num_texts": 1}


def test_a_file_with_its_totals_and_what_is_left_out(run: Run, model: Path, data: Path) -> None:
    code, out, _ = run("score", "--model", model, data, "--json")
    assert code == 0
    report = json.loads(out)
    assert [text["id"] for text in report["texts"]] == ["1", "3", "4"]
    assert report["left_out"] == {"blank": 1, "longer than the 64 tokens that the model takes": 1}
    total = report["total"]
    assert total["num_texts"] == 3
    assert total["num_tokens"] == sum(text["num_tokens"] for text in report["texts"])
    for level in LEVELS:
        mean = sum(text["nats"][level] for text in report["texts"]) / 3
        assert total["nats"][level] == pytest.approx(mean)
        assert total["perplexity"][level] == pytest.approx(math.exp(mean))


def test_a_table_for_people(run: Run, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run("score", "--model", model, data)
    assert code == 0
    head, *rows, legend = out.splitlines()
    assert head.split() == ["text", "tokens", *LEVELS, "weighted"]
    assert [row.split()[:2] for row in rows[:6:2]] == [["1", "nats"], ["3", "nats"], ["4", "nats"]]
    assert [len(row.split()) for row in rows[1::2]] == [2 + len(LEVELS)] * 4  # no number is broken
    assert rows[6].split()[:3] == ["mean", "of", "3"]
    assert legend == "nats per token; weighted: by the default weights of word, phrase and sentence"
    assert err == "left out: 1 blank, 1 longer than the 64 tokens that the model takes\n"


def test_a_context_is_read_and_not_scored(
    run: Run, model: Path, tmp_path: Path, tiny_lm: Any, tiny_tokenizer: Any
) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "x", "prompt": "The {response} chair", "completion": " broke."}\n')
    columns = ("--context-column", "prompt", "--text-column", "completion")
    code, out, _ = run("score", "--model", model, tmp_path / "a.jsonl", *columns, "--json")
    assert code == 0
    expected = FrozenScorer(tiny_lm(), tiny_tokenizer).score(["The {response} chair"], [" broke."])[0]
    (text,) = json.loads(out)["texts"]
    assert [text["id"], text["num_tokens"]] == ["x", len(expected.nats)]
    assert list(text["nats"].values()) == pytest.approx(expected.levels.tolist(), abs=1e-5)


def table_config(template: str, pool: dict[str, Any]) -> PerplexityConfig:
    values = {"word_pool": {"kind": "mean"}, "phrase_pool": pool, "sentence_pool": pool}
    return PerplexityConfig.model_validate({"max_tokens_per_batch": 1, "template": template, **values})


@pytest.mark.parametrize("pools", ["default", "plain"])
def test_a_table_of_baselines_behind_first_sentences(
    pools: str, run: Run, model: Path, data: Path, tiny_lm: Any, tiny_tokenizer: Any
) -> None:
    out, template = data.parent / "new" / "table.parquet", "{prompt} It is{response}"
    options = ("--context", "first-sentence", "--template", template, "--pools", pools, "--threads", 1)
    code, printed, err = run("baseline", "--model", model, "--data", data, "--out", out, *options)
    assert code == 0, err
    assert "baseline: 2 references of" in printed
    assert err == "left out: 1 blank, 2 of one sentence\n"
    config = table_config(template, {"kind": "mean"} if pools == "plain" else {"kind": "cvar", "q": 0.25})
    baselines = read_baselines(out, scorer_identity(model, "float32", config))
    assert baselines.noise["precision"]["word"] > baselines.noise["batch"]["word"]
    scorer = FrozenScorer(tiny_lm(), tiny_tokenizer, pools=config.pools())
    parted = [
        ("1", "The tea kettle boils fast.", " I like it."),
        ("3", "The chair broke after a week; I want my money back.", " It was cheap! A good book."),
    ]
    for row, (name, prompt, reference) in zip(baselines.table.to_pylist(), parted, strict=True):
        assert row["id"] == name
        assert [row["prompt_sha256"], row["reference_sha256"]] == [text_sha256(prompt), text_sha256(reference)]
        for columns, context in ((NATS_COLUMNS, prompt), (EMPTY_COLUMNS, prompt + " It is")):
            expected = scorer.level_nats([context], [reference])[0].tolist()
            assert [row[column] for column in columns] == pytest.approx(expected, abs=1e-5)


def test_whole_texts_and_a_sample_of_them(run: Run, model: Path, data: Path) -> None:
    out = data.parent / "table.parquet"
    code, _, err = run("baseline", "--model", model, "--data", data, "--out", out, "--num-samples", 2)
    assert code == 0, err
    identity = scorer_identity(model, "float32", table_config("{prompt}{response}", {"kind": "cvar", "q": 0.25}))
    rows = read_baselines(out, identity).table.to_pylist()
    assert len(rows) == 2
    assert all(row["prompt_sha256"] == text_sha256("") for row in rows)
    texts = {str(number): line.strip() for number, line in enumerate(LINES, start=1)}
    assert all(row["reference_sha256"] == text_sha256(texts[row["id"]]) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["score", "--model", "MODEL"], "score: needs a file or --text, and not both"),
        (["score", "--model", "MODEL", "DATA", "--text", "a"], "score: needs a file or --text, and not both"),
        (["score", "--model", "MODEL", "--text", " "], "score --text: empty, or blank"),
        (["score", "--model", "nowhere", "DATA"], "nowhere: no such model folder"),
        (["score", "--model", "MODEL", "nowhere.txt"], "nowhere.txt: no such file or directory"),
        (["score", "--model", "MODEL", "DATA", "--text-column", "txt"], "line 1: no column 'txt'"),
        (["score", "--model", "MODEL", "DATA", "--format", "xml"], "unknown format '.xml'"),
        (["score", "--model", "MODEL", "--text", "I " * 80], "texts: none is left: 1 longer than the 64 tokens"),
        (["baseline", "--model", "MODEL", "--data", "DATA", "--out", "a.csv"], "--out: a.csv does not end with"),
        (
            ["baseline", "--model", "MODEL", "--data", "DATA", "--out", "OUT", "--template", "{prompt}"],
            "--template: '{prompt}' holds {response} 0 times",
        ),
        (
            ["baseline", "--model", "MODEL", "--data", "DATA", "--out", "OUT", "--template", "The t{response}"],
            "train reference '1': context and text melt into one token",
        ),
    ],
)
def test_a_mistake_ends_in_words_and_nothing_is_written(
    arguments: list[str], named: str, run: Run, model: Path, data: Path
) -> None:
    data.write_text("he kettle boils.\n")
    out = data.parent / "out.parquet"
    places = {"MODEL": model, "DATA": data, "OUT": out}
    code, printed, err = run(*(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert err.startswith("error: ")
    assert named in err
    assert "Traceback" not in printed + err
    assert list(data.parent.iterdir()) == [data]


def test_a_table_that_is_there_stays_when_the_new_one_fails(run: Run, model: Path, data: Path) -> None:
    out = data.parent / "out.parquet"
    out.write_bytes(b"old")
    data.write_text("he kettle boils.\n")
    assert run("baseline", "--model", model, "--data", data, "--out", out, "--template", "The t{response}")[0] == 2
    assert out.read_bytes() == b"old"


def test_the_names_of_the_weights_are_those_that_there_are() -> None:
    assert [str(name) for name in Weights] == list(WEIGHTS)


def test_help_comes_without_loading_torch() -> None:
    code = """import runpy, sys
try:
    runpy.run_module("triplex.perplexity", run_name="__main__")
finally:
    print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"})
    assert done.returncode == 0, done.stderr
    assert "python -m triplex.perplexity score --model models/sft --text" in done.stdout
    assert done.stdout.strip().endswith("False")
