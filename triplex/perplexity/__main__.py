"""The levels of any text, and a table of baselines of any text file: `python -m triplex.perplexity --help`."""

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.runs.command import command_line
from triplex.runs.errors import InputError, errors_in_words

if TYPE_CHECKING:
    from triplex.perplexity.config import PerplexityConfig
    from triplex.perplexity.scorer import FrozenScorer
    from triplex.perplexity.texts import Row

app = command_line(
    "How likely a language model finds a text, by token, word, phrase and sentence. docs/perplexity.md explains.",
    """
* `python -m triplex.perplexity score --model models/sft --text "I like it."`
* `python -m triplex.perplexity score --model models/sft stories.txt`: a text a line
* `python -m triplex.perplexity score --model models/sft rows.jsonl --json`: for a script
* `python -m triplex.perplexity baseline --model models/sft --data stories.txt --out b.parquet`: a table
* `python -m triplex.perplexity score --help`: more
""",
)


class Weights(StrEnum):
    """The names of `triplex.perplexity.improvement.WEIGHTS`."""

    DEFAULT = "default"
    STORY = "story"
    TECHNICAL = "technical"
    CODE = "code"


class PoolProfile(StrEnum):
    """What each level says of its units."""

    DEFAULT = "default"  # the mean word, the worst quarter of phrases and of sentences
    PLAIN = "plain"  # means


class Context(StrEnum):
    """What of a text is its prompt."""

    NONE = "none"
    FIRST_SENTENCE = "first-sentence"


class Precision(StrEnum):
    """The dtype in which the model computes."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


_POOLS = {
    PoolProfile.DEFAULT: ({"kind": "mean"}, {"kind": "cvar", "q": 0.25}, {"kind": "cvar", "q": 0.25}),
    PoolProfile.PLAIN: ({"kind": "mean"},) * 3,
}

ModelFolder = Annotated[Path, typer.Option("--model", metavar="DIR", help="A Hugging Face folder of safetensors.")]
TextColumn = Annotated[str, typer.Option("--text-column", help="The column of the texts; in a .txt file it is `text`.")]
Format = Annotated[str | None, typer.Option("--format", help="txt, csv, json, jsonl, parquet; else by the ending.")]
Pools = Annotated[PoolProfile, typer.Option(help="default: the worst quarter of phrases and sentences; plain: means.")]
_WEIGHTS_HELP = f"Of the levels in the weighted perplexity: {', '.join(Weights)}."
Dtype = Annotated[Precision, typer.Option("--precision", metavar="DTYPE", help="float32 or bfloat16.")]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, max=256, help="CPU threads; another count gives other last digits.")
]
BatchSize = Annotated[
    int, typer.Option("--max-tokens-per-batch", metavar="N", min=1, help="Padded positions in one forward pass.")
]


@app.command(
    epilog="""
* `python -m triplex.perplexity score --model models/sft --text "I like it."`
* `python -m triplex.perplexity score --model models/sft stories.txt --weights story`: one text a line
* `python -m triplex.perplexity score --model models/sft rows.jsonl --context-column prompt --text-column completion`
* `python -m triplex.perplexity score --model models/sft rows.jsonl --json | jq .total`
"""
)
def score(
    model: ModelFolder,
    file: Annotated[
        Path | None, typer.Argument(help="A .txt (one text a line), .csv, .json, .jsonl, .parquet.")
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="One text instead of a file.")] = None,
    text_column: TextColumn = "text",
    context_column: Annotated[str | None, typer.Option(help="What is read before each text; it is not scored.")] = None,
    file_format: Format = None,
    weights: Annotated[Weights, typer.Option(metavar="NAME", help=_WEIGHTS_HELP)] = Weights.DEFAULT,
    pools: Pools = PoolProfile.DEFAULT,
    precision: Dtype = Precision.FLOAT32,
    threads: Threads = None,
    max_tokens_per_batch: BatchSize = 2048,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print the nats per token and the perplexity of each text on each level, and their means over all texts.

    Blank texts, and texts longer than the model takes, are left out and counted.
    """
    if text is not None and not text.strip():
        raise InputError("score --text", "empty, or blank", "give it a word at least")
    if (file is None) == (text is None):
        raise InputError("score", "needs a file or --text, and not both", 'score --model DIR FILE, or --text "..."')
    from triplex.perplexity.texts import Row, read_texts

    left_out: Counter[str] = Counter()
    rows = [Row("text", "", text or "")]
    if file:
        rows = read_texts(file, file_format, text_column, context_column, left_out)
    config = _config("{prompt}{response}", pools, max_tokens_per_batch)
    scorer, rows = _load(model, precision, threads, config, rows, left_out)
    report = _report(scorer, rows, weights)
    if as_json:
        typer.echo(json.dumps({**report, "left_out": left_out}, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        _print(report)
        _tell(left_out)


@app.command(
    epilog="""
* `python -m triplex.perplexity baseline --model models/sft --data articles.txt --context first-sentence
  --out b.parquet`: how likely is the rest of each paragraph, after its first sentence?
* `python -m triplex.perplexity baseline --model models/sft --data stories.csv --text-column story --num-samples 500
  --pools plain --out b.parquet`: 500 whole texts, with means on every level

`triplex.perplexity.baselines.read_baselines` reads the table; the stage `baseline` of the pipeline writes the same one.
"""
)
def baseline(
    model: ModelFolder,
    data: Annotated[Path, typer.Option(help="A .txt (one text a line), .csv, .json, .jsonl, .parquet.")],
    out: Annotated[Path, typer.Option(help="The table, a .parquet file; it appears whole or not at all.")],
    text_column: TextColumn = "text",
    file_format: Format = None,
    num_samples: Annotated[
        int | None, typer.Option(min=2, help="Texts, at most, chosen by the hash of their ids; none means all.")
    ] = None,
    context: Annotated[
        Context, typer.Option(help="none: the whole text is the reference; first-sentence: that is its prompt.")
    ] = Context.NONE,
    template: Annotated[str, typer.Option(help="What a reference is read after.")] = "{prompt}{response}",
    pools: Pools = PoolProfile.DEFAULT,
    precision: Dtype = Precision.FLOAT32,
    threads: Threads = None,
    max_tokens_per_batch: BatchSize = 2048,
) -> None:
    """Write how likely each text of a file is on each level, as a table of baselines for the perplexity reward.

    An `id` column names the rows, else their number does. Blank texts, texts longer than the model takes and, with
    `first-sentence`, texts of one sentence are left out and counted.
    """
    from triplex.perplexity.baselines import score_baselines, scorer_identity, to_table, write_baselines
    from triplex.perplexity.noise import measure_noise
    from triplex.perplexity.texts import behind_first_sentence, read_texts, sample_texts
    from triplex.runs.progress import StepProgress

    config = _config(template, pools, max_tokens_per_batch)
    if out.suffix != ".parquet":
        raise InputError("--out", f"{out} does not end with .parquet", "name the table NAME.parquet")
    left_out: Counter[str] = Counter()
    rows = read_texts(data, file_format, text_column, None, left_out)
    if context == Context.FIRST_SENTENCE:
        rows = behind_first_sentence(rows, left_out)
    scorer, rows = _load(model, precision, threads, config, rows, left_out)
    rows = sample_texts(rows, num_samples)
    references = [{"id": row.id, "split": "train", "prompt": row.context, "reference": row.text} for row in rows]
    with StepProgress("baseline", len(rows)) as progress:
        scored = score_baselines(scorer, config, references, progress.advance)
    noise = measure_noise(scorer, [row.context for row in rows], [row.text for row in rows])
    write_baselines(out, [to_table(scored)], scorer_identity(model, precision, config), noise)
    _tell(left_out)
    typer.echo(f"baseline: {len(scored):,} references of {sum(row['num_tokens'] for row in scored):,} tokens -> {out}")


def _config(template: str, pools: PoolProfile, max_tokens_per_batch: int) -> "PerplexityConfig":
    from pydantic import ValidationError

    from triplex.perplexity.config import PerplexityConfig

    values = dict(zip(("word_pool", "phrase_pool", "sentence_pool"), _POOLS[pools], strict=True))
    try:
        return PerplexityConfig.model_validate(
            {"template": template, "max_tokens_per_batch": max_tokens_per_batch, **values}
        )
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError("--template", f"{template!r} {what}", 'e.g. "{prompt}{response}"') from None


def _load(
    folder: Path,
    precision: str,
    threads: int | None,
    config: "PerplexityConfig",
    rows: "list[Row]",
    left_out: Counter[str],
) -> "tuple[FrozenScorer, list[Row]]":
    """The scorer, and the rows that it takes; InputError when there is none."""
    import torch

    from triplex.models.loading import load_causal_lm
    from triplex.perplexity.scorer import FrozenScorer

    if threads:
        torch.set_num_threads(threads)
    scorer = FrozenScorer(
        *load_causal_lm(folder, precision), max_tokens_per_batch=config.max_tokens_per_batch, pools=config.pools()
    )
    contexts = [max(row.context, config.context(row.context, ""), key=len) for row in rows]
    fits = scorer.fits(contexts, [row.text for row in rows])
    if too_long := fits.count(False):
        left_out[f"longer than the {scorer.max_positions} tokens that the model takes"] += too_long
    kept = [row for row, takes in zip(rows, fits, strict=True) if takes]
    if not kept:
        raise InputError("texts", f"none is left: {_words(left_out)}", "name other texts, or a larger model")
    return scorer, kept


def _report(scorer: "FrozenScorer", rows: "list[Row]", weights: str) -> dict[str, Any]:
    """Of each text and of the mean nats of all: number of tokens, nats and perplexity by level, weighted perplexity."""
    import torch

    from triplex.perplexity.improvement import WEIGHTS, weighted_perplexity
    from triplex.perplexity.levels import LEVELS

    names = [f"text {row.id}" for row in rows]
    results = scorer.score([row.context for row in rows], [row.text for row in rows], names=names)
    levels = torch.stack([result.levels.double() for result in results])
    levels = torch.cat([levels, levels.mean(dim=0, keepdim=True)])
    num_tokens = [len(result.nats) for result in results]
    measured = [
        {
            "num_tokens": count,
            "nats": dict(zip(LEVELS, nats.tolist(), strict=True)),
            "perplexity": dict(zip(LEVELS, nats.exp().tolist(), strict=True)),
            "weighted_perplexity": weighted_perplexity(nats[None, 1:], WEIGHTS[weights]).item(),
        }
        for count, nats in zip([*num_tokens, sum(num_tokens)], levels, strict=True)
    ]
    texts = [{"id": row.id, **values} for row, values in zip(rows, measured, strict=False)]
    return {"weights": str(weights), "texts": texts, "total": {"num_texts": len(rows), **measured[-1]}}


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    total = report["total"]
    measures = ("tokens", *total["nats"], "weighted")
    numbers = (Column(name, justify="right", no_wrap=True) for name in measures)
    table = Table(Column("text", overflow="fold"), "", *numbers, box=None, collapse_padding=True)
    rows = [(text["id"], text) for text in report["texts"]] + [(f"mean of {total['num_texts']:,}", total)]
    for name, values in rows:
        perplexities = [*values["perplexity"].values(), values["weighted_perplexity"]]
        table.add_row(name, "nats", f"{values['num_tokens']:,}", *(f"{nats:.3f}" for nats in values["nats"].values()))
        table.add_row("", "perplexity", "", *(f"{number:,.{2 * (number < 1000)}f}" for number in perplexities))
    Console().print(table)
    typer.echo(f"nats per token; weighted: by the {report['weights']} weights of word, phrase and sentence")


def _words(left_out: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "no text"


def _tell(left_out: Counter[str]) -> None:
    if left_out:
        typer.echo(f"left out: {_words(left_out)}", err=True)


def main() -> None:
    """Run the command line; the user's mistakes end in their message and exit code 2."""
    with errors_in_words():
        app()


if __name__ == "__main__":
    main()
