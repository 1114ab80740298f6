"""`python -m pipelines generate`: what one or several model folders write after prompts, side by side."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from triplex.runs.errors import InputError

if TYPE_CHECKING:
    from triplex.models.generate import Completion, Decoding

EXAMPLES = """
* `python -m pipelines generate --model models/ppo --prompt "The film"`: one completion, drawn
* `python -m pipelines generate --model models/sft --model models/ppo --prompt "The film" --num-samples 4`: side by side
* `python -m pipelines generate --model models/ppo --prompts prompts.txt --greedy`: one prompt a line
* `python -m pipelines generate --model models/ppo --prompt "The film" --temperature 0.7 --top-k 50 --top-p 0.95`
* `python -m pipelines generate --model models/ppo --prompt "The film" --num-beams 4 --num-samples 2`: the best beams
* `cat prompts.txt | python -m pipelines generate --model models/ppo --prompts - --json | jq .completion`
"""
STDIN = Path("-")
CUT_OFF = "…"
#: what a terminal would obey, as signs that it shows
_SIGNS = {code: 0x2400 + code for code in range(32) if chr(code) != "\n"} | {code: "�" for code in range(127, 160)}


def generate(
    models: Annotated[
        list[Path], typer.Option("--model", metavar="DIR", help="A Hugging Face folder of safetensors; repeatable.")
    ],
    prompts: Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="Repeatable.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A .txt, one prompt a line; - is standard input.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="At most, in each completion.")] = 48,
    num_samples: Annotated[int, typer.Option("--num-samples", help="Completions of each prompt.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws; equal seed, equal text.")] = 0,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Above 0; 1 unless given, as in training.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Draw among the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Draw among the fewest tokens of this joint probability.")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token; nothing is drawn.")] = False,
    num_beams: Annotated[
        int | None, typer.Option("--num-beams", help="Beam search of this width; nothing is drawn.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of a table.")] = False,
) -> None:
    """Print what models write after prompts: a row a prompt, a column a model.

    Tokens are drawn from the model's whole distribution unless an option says otherwise. A draw depends on the seed,
    the prompt and the sample's number, not on the other prompts. Prompts are plain text; no chat template is applied.
    """
    from triplex.models.generate import Decoding
    from triplex.models.loading import check_folder

    decoding = Decoding(
        max_new_tokens=max_new_tokens, num_samples=num_samples, greedy=greedy, num_beams=num_beams,
        temperature=temperature, top_k=top_k, top_p=top_p,
    )  # fmt: skip
    texts = _prompts(prompts or [], prompts_file)
    for folder in models:  # all of them, before the first is loaded
        is_there(folder)
        check_folder(folder, "ForCausalLM")
    columns = []
    with Console(stderr=True).status("") as status:
        for folder in models:
            status.update(visible(str(folder)))
            columns.append(_completions(folder, texts, decoding, seed))
    if as_json:
        for folder, column in zip(models, columns, strict=True):
            _print_json(folder, texts, column)
    else:
        Console().print(side_by_side(list(map(str, models)), texts, columns, max_new_tokens))


def is_there(folder: Path) -> None:
    """InputError unless there is such a folder; its remedy names those that there are."""
    if not folder.is_dir():
        models = [str(config.parent) for config in sorted(Path("models").glob("*/config.json"))]
        here = f"there are {', '.join(models)}" if models else "none is trained yet: `python -m pipelines run`"
        remedy = f"{here}; a model of the hub is fetched by `hf download ORG/NAME --local-dir FOLDER`"
        raise InputError(f"--model {folder}", "no such model folder", remedy)


def _prompts(given: list[str], file: Path | None) -> list[str]:
    """The prompts in the order given, the file's last; blank lines and the space around a line are left out."""
    from triplex.data.files import open_file

    texts = list(given)
    if file == STDIN:
        read = sys.stdin.buffer.read().decode("utf-8-sig", "surrogateescape")  # as Python decodes arguments
        texts += filter(None, map(str.strip, read.split("\n")))
    elif file:
        opened = open_file(file, file_format=file.suffix.lower() or ".txt")
        if opened.format != ".txt":
            raise InputError(file, f"a {opened.format} file", "prompts are read from a .txt, one a line")
        texts += filter(None, (record.values["text"].strip() for record in opened.records()))
    for text in texts:
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"prompt {text!r}", "not UTF-8", "write it in UTF-8")
    if not texts:
        what = "no prompt is given" if file is None else f"no prompt in {'standard input' if file == STDIN else file}"
        raise InputError("generate", what, '--prompt "...", or --prompts FILE with one a line')
    return texts


def _completions(folder: Path, prompts: list[str], decoding: "Decoding", seed: int) -> list[list["Completion"]]:
    """One model's completions of each prompt; all prompts are checked before the first is completed."""
    from triplex.models.generate import complete, encode
    from triplex.models.loading import load_causal_lm

    model, tokenizer = load_causal_lm(folder)
    for prompt in prompts:
        encode(model, tokenizer, prompt, decoding.max_new_tokens)
    return [complete(model, tokenizer, prompt, decoding, seed) for prompt in prompts]


def _print_json(folder: Path, prompts: list[str], completions: list[list["Completion"]]) -> None:
    for prompt, samples in zip(prompts, completions, strict=True):
        for text, num_tokens, ended in samples:
            values = {"model": str(folder), "prompt": prompt, "completion": text}
            typer.echo(json.dumps({**values, "num_tokens": num_tokens, "ended": ended}))


def side_by_side(
    models: list[str], prompts: list[str], columns: list[list[list["Completion"]]], max_new_tokens: int
) -> Table:
    """A column a model and a row a prompt, or as many as it has samples, from `columns` [model][prompt][sample]."""
    table = Table(box=SIMPLE, pad_edge=False, show_edge=False, show_lines=True)
    table.add_column("prompt", style="cyan", overflow="fold")
    for name in models:
        table.add_column(visible(name), overflow="fold", ratio=2)
    for prompt, answers in zip(prompts, zip(*columns, strict=True), strict=True):
        for number, row in enumerate(zip(*answers, strict=True)):
            table.add_row(visible(prompt if number == 0 else ""), *map(_cell, row))
    if any(not completion.ended for column in columns for samples in column for completion in samples):
        table.caption = f"{CUT_OFF}: cut off after {max_new_tokens} tokens (--max-new-tokens), not ended by the model"
        table.caption_justify = "left"
    return table


def _cell(completion: "Completion") -> Text:
    cell = visible(completion.text.strip())
    return cell if completion.ended else cell.append(f" {CUT_OFF}", style="dim")


def visible(text: str) -> Text:
    """As it is: no markup, and no control character for the terminal to obey."""
    return Text(text.translate(_SIGNS))
