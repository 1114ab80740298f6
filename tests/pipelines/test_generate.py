"""`python -m pipelines generate` with two tiny models: the table, the JSON lines, the prompts, the mistakes."""

import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pipelines.__main__ import app, main
from pipelines.generate import side_by_side
from tests.pipelines.conftest import run_pipelines
from triplex.models.generate import Completion
from triplex.models.saving import save_model
from triplex.runs.errors import InputError

BOTH = ("--model", "a", "--model", "b", "--max-new-tokens", "6")


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> None:
    """Folders a and b in the working directory, of two architectures."""
    monkeypatch.chdir(tmp_path)
    save_model("a", tiny_lm(0), tiny_tokenizer)
    save_model("b", tiny_lm(1, "qwen3"), tiny_tokenizer)


def run(*arguments: str, stdin: bytes = b"", **env: str) -> Result:
    """The command in this process; the user's mistakes are raised."""
    result = CliRunner().invoke(app, ["generate", *arguments], input=stdin, env=env)
    if isinstance(result.exception, InputError):
        raise result.exception
    return result


def lines(*arguments: str, stdin: bytes = b"") -> list[dict[str, Any]]:
    """The objects of --json."""
    done = run(*arguments, "--json", stdin=stdin)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_line_of_json_for_each_model_prompt_and_sample() -> None:
    found = lines(*BOTH, "--prompt", "The tea", "--prompt", "I like", "--num-samples", "2")
    assert [set(line) for line in found] == [{"model", "prompt", "completion", "num_tokens", "ended"}] * 8
    assert [(line["model"], line["prompt"]) for line in found] == [
        (model, prompt) for model in "ab" for prompt in ("The tea", "I like") for _ in range(2)
    ]
    assert all(isinstance(line["ended"], bool) and 1 <= line["num_tokens"] <= 6 for line in found)


def test_equal_seed_equal_text_and_another_prompt_changes_nothing() -> None:
    alone = lines(*BOTH, "--prompt", "I like", "--seed", "7")
    among = lines(*BOTH, "--prompt", "The tea", "--prompt", "I like", "--prompt", "A", "--seed", "7")
    assert [line for line in among if line["prompt"] == "I like"] == alone
    assert lines(*BOTH, "--prompt", "I like", "--seed", "8") != alone


def test_nothing_but_json_and_nothing_but_the_table_is_printed() -> None:
    """Though the folder has sampling values of its own."""
    file = Path("a/generation_config.json")
    wants = {"do_sample": True, "temperature": 0.3, "top_k": 5, "max_length": 4, "repetition_penalty": 9.0}
    file.write_text(json.dumps({**json.loads(file.read_text()), **wants}))
    done = run_pipelines(Path(), "generate", *BOTH, "--prompt", "The tea", "--greedy", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["num_tokens"] for line in done.stdout.splitlines()] == [6, 6]
    done = run_pipelines(Path(), "generate", *BOTH, "--prompt", "The tea", "--num-beams", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[:3] == ["prompt", "a", "b"]


def test_a_mistake_ends_in_its_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pipelines", "generate", *BOTH, "--prompt", "The tea " * 70, "--greedy"])
    with pytest.raises(SystemExit, match="2"):
        main()
    out, err = capsys.readouterr()
    assert err.startswith("error: prompt 'The tea The tea")
    assert "do not fit into the model's 64\n  remedy: shorten it" in err
    assert len(err.splitlines()) == 2
    assert out == ""


ANSWERS = [
    [[Completion(" kettle boils fast and the handle stays cool.", 9, True)] * 2, [Completion("", 1, True)] * 2],
    [[Completion(" kettle is [red]hot[/red].", 6, False)] * 2, [Completion(" it\x1b[2J\n\x9bmuch", 6, True)] * 2],
]


def printed(width: int, **options: Any) -> list[str]:
    console = Console(width=width, file=io.StringIO(), **options)
    console.print(side_by_side(["models/sft", "models/[b]ppo"], ["The tea", "I like"], ANSWERS, 6))
    return console.file.getvalue().splitlines()


def test_a_row_a_prompt_and_a_column_a_model() -> None:
    shown = [line.rstrip() for line in printed(160)]
    assert shown[0].split() == ["prompt", "models/sft", "models/[b]ppo"]
    ppo = shown[0].index("models/[b]ppo")
    assert [line[:7].strip() for line in shown[2:-1] if line.strip()] == ["The tea", "", "I like", "", "", ""]
    assert [line[ppo:] for line in shown[2:-1] if line[ppo:]] == [
        "kettle is [red]hot[/red]. …",
        "kettle is [red]hot[/red]. …",
        "it␛[2J",
        "�much",
        "it␛[2J",
        "�much",
    ]
    assert shown[2].count("kettle boils fast and the handle stays cool.") == 1
    assert shown[-1] == "…: cut off after 6 tokens (--max-new-tokens), not ended by the model"


@pytest.mark.parametrize("width", [30, 80, 160])
def test_every_width_holds_every_character(width: int) -> None:
    shown = printed(width)
    assert max(map(len, shown)) <= width
    answers = 2 * "kettleboilsfastandthehandlestayscool.kettleis[red]hot[/red].it␛[2J�much"
    expected = Counter(
        "promptmodels/sftmodels/[b]ppo"
        + "TheteaIlike"
        + answers
        + "……"
        + "…:cutoffafter6tokens(--max-new-tokens),notendedbythemodel"
    )
    assert Counter(character for line in shown for character in line if character not in " ─") == expected


def test_the_mark_is_explained_only_where_it_stands() -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(side_by_side(["a"], ["The tea"], [[[Completion(" is hot.", 4, True)]]], 6))
    assert "…" not in console.file.getvalue()


@pytest.mark.parametrize(("env", "coloured"), [({"NO_COLOR": "1"}, False), ({}, True)])
def test_no_color_is_respected(env: dict[str, str], coloured: bool) -> None:
    done = run("--model", "a", "--prompt", "The tea", FORCE_COLOR="1", TERM="xterm-256color", **env)
    assert ("\x1b[36m" in done.stdout) is coloured


def test_prompts_of_a_file_and_of_standard_input(tmp_path: Path) -> None:
    text = "\ufeffThe tea\r\n\n  I like \nÉté\u2028là\n".encode()
    Path("prompts.txt").write_bytes(text)
    expected = ["A", "The tea", "I like", "Été\u2028là"]
    given = ("--model", "a", "--greedy", "--max-new-tokens", "1", "--prompt", "A", "--prompts")
    assert [line["prompt"] for line in lines(*given, "prompts.txt")] == expected
    assert [line["prompt"] for line in lines(*given, "-", stdin=text)] == expected


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        ((), b"", "generate: no prompt is given"),
        (("--prompts", "-"), b"\n \n", "generate: no prompt in standard input"),
        (("--prompts", "blank.txt"), b"", "generate: no prompt in blank.txt"),
        (("--prompts", "-"), b"The caf\xe9\n", "not UTF-8"),
        (("--prompts", "latin1.txt"), b"", "latin1.txt line 1: not UTF-8 at byte 7"),
        (("--prompts", "nowhere.txt"), b"", "nowhere.txt: no such file"),
        (("--prompts", "rows.jsonl"), b"", "rows.jsonl: a .jsonl file"),
        (("--prompt", "A", "--model", "nowhere"), b"", "nowhere: no such model folder"),
        (("--prompt", "A", "--model", "pickled"), b"", "pickled: has only pickle weights"),
        (("--prompt", "A", "--model", "code"), b"", "code: wants to run its own code"),
        (("--prompt", "A", "--greedy", "--top-k", "3"), b"", "--greedy: draws nothing, so --top-k has no meaning"),
        (("--prompt", "A", "--num-beams", "2", "--temperature", "1"), b"", "--num-beams: draws nothing"),
        (("--prompt", "A", "--num-beams", "2", "--num-samples", "3"), b"", "--num-samples: 3 is above --num-beams 2"),
        (("--prompt", "A", "--max-new-tokens", "-1"), b"", "--max-new-tokens: -1 is too small"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], stdin: bytes, said: str) -> None:
    Path("blank.txt").write_text("\n\n")
    Path("latin1.txt").write_bytes(b"The caf\xe9\n")
    Path("rows.jsonl").write_text('{"text": "A"}\n')
    for name in ("pickled", "code"):
        shutil.copytree("a", name)
    Path("pickled/model.safetensors").rename("pickled/pytorch_model.bin")
    Path("code/modeling_mine.py").touch()
    with pytest.raises(InputError) as raised:
        run("--model", "a", *arguments, stdin=stdin)
    assert said in str(raised.value)
    assert raised.value.remedy


def test_a_model_that_is_missing_is_told_with_those_that_are_there() -> None:
    with pytest.raises(InputError, match="none is trained yet: `python -m pipelines run`"):
        run("--model", "org/name", "--prompt", "A")
    shutil.copytree("a", "models/sft")
    with pytest.raises(InputError, match=r"there are models/sft; .*hf download ORG/NAME"):
        run("--model", "org/name", "--prompt", "A")


def test_options_are_checked_before_any_model_is_looked_at() -> None:
    with pytest.raises(InputError, match="--top-p"):
        run("--model", "nowhere", "--prompt", "A", "--top-p", "2")


def test_every_folder_is_looked_at_before_the_first_is_loaded() -> None:
    Path("a/model.safetensors").write_bytes(Path("b/model.safetensors").read_bytes())  # told only when it is loaded
    with pytest.raises(InputError, match="nowhere: no such model folder"):
        run("--model", "a", "--model", "nowhere", "--prompt", "A")
