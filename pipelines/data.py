"""`python -m pipelines data`: look at samples, name every problem of a file, read other projects' forms."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.generate import is_there
from triplex.runs.command import command_line, counted
from triplex.runs.errors import Exit, InputError
from triplex.runs.params import PARAMS_FILE, load_yaml, nearest

if TYPE_CHECKING:
    from pipelines.preview import Sample, Tokens
    from triplex.data.validate import Findings

app = command_line(
    "Data: look at it before hours are spent on it.",
    """
* `python -m pipelines data show -n 3`: what the stages will read, with tokens, mask, words, phrases and sentences
* `python -m pipelines data show --perplexity`: each token shaded by its nats under models/sft
* `python -m pipelines data validate reviews.csv --column text=body`: every problem, with its row
* `python -m pipelines data import alpaca.json --from alpaca --out rows.jsonl`
""",
)
PREPARED = Path("data/processed/sft.parquet")
MODELS = (Path("models/sft"), Path("models/base"))
FORMS = ("alpaca", "sharegpt", "messages")

DataFile = Annotated[Path, typer.Argument(metavar="FILE", help="A .txt, .csv, .json, .jsonl or .parquet.")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", metavar="ROLE=NAME", help="As data.source.columns; repeatable.")
]
Delimiter = Annotated[str, typer.Option("--delimiter", help="Of a .csv file.")]


@app.command(
    epilog="""
* `python -m pipelines data show`: the first rows of data/processed/sft.parquet
* `python -m pipelines data show reviews.csv --column text=body -n 2`: rows of a file, before it is prepared
* `python -m pipelines data show --perplexity --model models/ppo`
"""
)
def show(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A data file; none means what was prepared.")
    ] = None,
    num_samples: Annotated[int, typer.Option("-n", min=1, help="Samples.")] = 5,
    perplexity: Annotated[bool, typer.Option("--perplexity", help="Shade each token by its nats.")] = False,
    model: Annotated[Path | None, typer.Option("--model", metavar="DIR", help="Else models/sft, models/base.")] = None,
    columns: Columns = None,
    delimiter: Delimiter = ",",
) -> None:
    """Print samples: tokens, what of them counts, words, phrases and sentences, in colours and with marks.

    Tokens are those of the model; without one, words and larger units alone are shown. Exit code 0; 2: a mistake in
    the input.
    """
    samples = _prepared(num_samples) if file is None else _of_file(file, num_samples, columns, delimiter)
    folder = model or next((each for each in MODELS if (each / "config.json").is_file()), None)
    if folder is None and perplexity:
        raise InputError("--perplexity", "no model is there yet", "`dvc repro sft` trains one; or --model DIR")
    if folder is not None:
        is_there(folder)
    from rich.console import Console

    from pipelines.preview import legend, lines

    console = Console(highlight=False, soft_wrap=False)
    coloured = console.color_system is not None and not console.no_color
    tokens = [None] * len(samples) if folder is None else _tokens(folder, samples, perplexity)
    longest = max((len(each) for each in tokens if each is not None), default=0)
    for sample, each in zip(samples, tokens, strict=True):
        for line in lines(sample, each, longest, coloured):
            console.print(line)
        console.print()
    console.print(legend(folder is not None, perplexity))
    typer.echo("no model here, so no tokens: `dvc repro base` makes one" if folder is None else f"tokens of {folder}")


def _prepared(num_samples: int) -> "list[Sample]":
    from pipelines.preview import Sample
    from triplex.data.tables import SCHEMAS, read_table

    if not PREPARED.is_file():
        raise InputError(PREPARED, "no data prepared yet", "`dvc repro prepare` does it, or name a file")
    rows = read_table(PREPARED, SCHEMAS["sft"]).slice(0, num_samples).to_pylist()
    return [Sample(row["id"], row["prompt"], row["completion"]) for row in rows]


def _of_file(file: Path, num_samples: int, columns: list[str] | None, delimiter: str) -> "list[Sample]":
    from pipelines.preview import Sample

    found = _read(file, columns, delimiter)
    if not found.rows:
        raise found.problems[0]
    if found.problems:
        left_out = counted(len(found.problems), "row")
        typer.echo(f"{left_out} left out: `python -m pipelines data validate {file}` tells why", err=True)
    rows = enumerate(found.rows[:num_samples], start=1)
    return [Sample(f"{file} sample {number}", row.prompt, row.completion) for number, row in rows]


def _tokens(folder: Path, samples: "list[Sample]", perplexity: bool) -> "list[Tokens | None]":
    """Each sample's tokens; with `perplexity` the nats of its completion's, given its prompt."""
    from pipelines.preview import Tokens
    from triplex.models.loading import load_causal_lm
    from triplex.perplexity.scorer import FrozenScorer

    model, tokenizer = load_causal_lm(folder)

    def texts(text: str) -> list[str]:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [text[first:end] for first, end in offsets]

    found = [Tokens(texts(sample.prompt), texts(sample.completion)) for sample in samples]
    if not perplexity:
        return list(found)
    prompts, completions = [s.prompt for s in samples], [s.completion for s in samples]
    scored = FrozenScorer(model, tokenizer).score(prompts, completions, strict_boundary=False)
    return [
        Tokens(each.prompt, [sample.completion[first:end] for first, end in score.offsets], score.nats.tolist())
        for sample, each, score in zip(samples, found, scored, strict=True)
    ]


@app.command(
    epilog="""
* `python -m pipelines data validate reviews.csv --column text=body --column label=liked`
* `python -m pipelines data validate rows.jsonl --json | jq -r '.problems[].where'`
"""
)
def validate(
    file: DataFile,
    columns: Columns = None,
    delimiter: Delimiter = ",",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Name every row that the stage prepare would refuse, by the same rules; nothing is written.

    One problem a row. Bytes that are not UTF-8, or a torn CSV, end the reading and are told last. Exit code 0: every
    row is sound; 2: there are problems.
    """
    found = _read(file, columns, delimiter)
    if as_json:
        problems = [{"where": each.where, "what": each.what, "remedy": each.remedy} for each in found.problems]
        typer.echo(json.dumps({"rows": len(found.rows), "counts": found.counts, "problems": problems}, indent=2))
    else:
        _tell(found.problems)
        counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in found.counts.items() if number)
        told = f"{file}: {counted(len(found.rows), 'row')} to use, {counted(len(found.problems), 'problem')}"
        typer.echo(told + f" ({counts})" * bool(counts))
    raise typer.Exit(Exit.BAD_INPUT if found.problems else Exit.DONE)


@app.command(
    "import",
    epilog="""
* `python -m pipelines data import alpaca.json --from alpaca --out rows.jsonl`: instruction, input, output
* `python -m pipelines data import talks.json --from sharegpt --out rows.jsonl`: conversations of from, value
* `python -m pipelines data import chats.jsonl --from messages --out rows.jsonl`: messages of role, content
""",
)
def import_(
    file: DataFile,
    form: Annotated[str, typer.Option("--from", metavar="|".join(FORMS), help="The form of its rows.")],
    out: Annotated[Path, typer.Option("--out", help="A .jsonl, written whole or not at all.")],
) -> None:
    """Turn other projects' rows into those that params.yaml can name: prompt and completion, or messages.

    Exit code 0: written; 2: problems, each named, and nothing written.
    """
    if form not in FORMS:
        raise InputError("--from", f"unknown form {form!r}", nearest(form, FORMS))
    if out.suffix != ".jsonl":
        raise InputError(out, "the rows are written as .jsonl", f"--out {out.with_suffix('.jsonl')}")
    if out.exists():
        raise InputError(out, "is there already", "name another file, or move it away")
    from triplex.data.chats import import_file

    num_rows, problems = import_file(file, form, out)
    if problems:
        _tell(problems)
        raise InputError(file, f"{counted(len(problems), 'problem')}, nothing written", "mend the rows named above")
    typer.echo(f"{out}: {counted(num_rows, 'row')}; data.source.files in params.yaml can name it")


def _read(file: Path, columns: list[str] | None, delimiter: str) -> "Findings":
    """The rows and problems of a file, by the lengths of params.yaml."""
    from triplex.data.rows import ROLES
    from triplex.data.validate import validate as validated

    named: dict[Any, str] = {}
    for entry in columns or []:
        role, _, name = entry.partition("=")
        if role not in ROLES or not name:
            raise InputError("--column", f"{entry!r} is not ROLE=NAME", f"a role is one of {', '.join(ROLES)}")
        named[role] = name
    if len(delimiter) != 1:
        raise InputError("--delimiter", f"{delimiter!r} is not one character", "--delimiter ';'")
    lengths = load_yaml(PARAMS_FILE)["data"]
    return validated(file, lengths["prompt_words"], lengths["max_words"], named, delimiter)


def _tell(problems: list[InputError]) -> None:
    for problem in problems:
        typer.echo(str(problem))
