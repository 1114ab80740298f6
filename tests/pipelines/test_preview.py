"""`python -m pipelines data show`: tokens, mask, units and nats, told by marks where there are no colours."""

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pipelines.__main__ import app
from pipelines.preview import Sample, Tokens, lines
from tests.project import ROOT
from triplex.data.tables import SCHEMAS, write_table
from triplex.models.saving import save_model
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.errors import InputError

SAMPLE = Sample("row 1", "I ordered", " a tea. It was very good, and cheap\x1b.")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and three prepared rows."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    rows = [{"id": f"id {number}", "prompt": "The tea", "completion": " was good." * number} for number in (1, 2, 3)]
    write_table("data/processed/sft.parquet", rows, SCHEMAS["sft"])
    return tmp_path


def show(*arguments: str) -> Result:
    """The command in this process; the user's mistakes are raised."""
    result = CliRunner().invoke(app, ["data", "show", *arguments], env={"COLUMNS": "300"})
    if isinstance(result.exception, InputError):
        raise result.exception
    return result


def test_the_marks_alone_tell_tokens_mask_units_and_nats() -> None:
    tokens = Tokens(["I", " ordered"], [" a", " tea", "."], [0.5, 7.25, 1.0])
    found = [line.plain for line in lines(SAMPLE, tokens, longest=7, coloured=False)]
    assert found == [
        "row 1",
        "tokens    I| ordered| a(0.5)| tea(7.2)|.(1.0)|··",
        "mask      0 x 2 prompt, 1 x 3 response, 0 x 2 padding",
        "nats      2.92 a token, on average",
        "units     <[I] [ordered] [a] [tea.]>‖ <[It] [was] [very] [good,]> <[and] [cheap␛.]>‖",
    ]


def test_nats_are_shades_where_there_are_colours() -> None:
    tokens = Tokens(["I"], [" a", " tea"], [0.1, 7.0])
    line = list(lines(SAMPLE, tokens, 3, coloured=True))[1]
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="truecolor", width=200, no_color=False).print(line)
    assert "(" not in line.plain
    assert re.findall(r"48;2;(\d+;\d+;\d+)m( \w+)", stream.getvalue()) == [("199;233;192", " a"), ("189;0;38", " tea")]


def test_without_a_model_the_units_are_shown_and_the_way_to_tokens(project: Path) -> None:
    found = show("-n", "2").stdout
    assert found.count("units  ") == 2
    assert "tokens   " not in found
    assert "dvc repro base" in found
    with pytest.raises(InputError, match="dvc repro sft"):
        show("--perplexity")


def test_perplexity_is_that_of_the_scorer(
    project: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("m", tiny_lm(0), tiny_tokenizer)
    found = show("-n", "1", "--perplexity", "--model", "m").stdout
    (score,) = FrozenScorer(tiny_lm(0), tiny_tokenizer).score(["The tea"], [" was good."])
    shown = re.findall(r"\((\d+\.\d)\)", found)
    assert shown == [f"{value:.1f}" for value in score.nats.tolist()]
    assert f"1 x {len(shown)} response" in found


def test_rows_of_a_file_before_it_is_prepared(project: Path) -> None:
    (project / "rows.csv").write_text("body,liked\nOne two three four five six,1\nA text of some more words,perhaps\n")
    found = show("rows.csv", "--column", "text=body", "--column", "label=liked")
    assert "<[One] [two] [three] [four]> <[five] [six]>‖" in found.stdout
    assert "1 row left out" in found.stderr


def test_nothing_prepared_is_a_sentence_and_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="dvc repro prepare"):
        show()
