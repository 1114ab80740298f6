"""The command line of rewards: `python -m triplex.rewards --help`."""

import json
import os
import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.runs.command import command_line
from triplex.runs.errors import InputError, errors_in_words

HACKABLE = 1
MODELS = Path("models")

app = command_line(
    "The reward of a finished stage `reward`: whether it can be cheated, and a server for other trainers.",
    """
* `python -m triplex.rewards check`: is human text what this reward likes best?
* `python -m triplex.rewards serve`: the reward over HTTP, for OpenRLHF
* `python -m triplex.rewards check --help`: more
""",
)

Reward = Annotated[Path, typer.Option("--reward", metavar="DIR", help="What the stage reward wrote.")]
Scorer = Annotated[
    Path | None, typer.Option("--scorer", metavar="DIR", help="The frozen model; else models/NAME as the reward says.")
]
Baselines = Annotated[Path, typer.Option("--baselines", metavar="FILE", help="What the stage baseline wrote.")]
Precision = Annotated[Literal["float32", "bfloat16"], typer.Option("--precision", help="As in params.yaml.")]


@app.command(
    epilog="""
* `python -m triplex.rewards check`: 64 held-out rows
* `python -m triplex.rewards check --num-rows 500`: narrower intervals
* `python -m triplex.rewards check --reward other/reward`: a reward of another run
* `python -m triplex.rewards check --json | jq .hackable`: for a script
"""
)
def check(
    reward: Reward = Path("models/reward"),
    scorer: Scorer = None,
    baselines: Baselines = Path("data/baselines.parquet"),
    data: Annotated[Path, typer.Option("--data", metavar="FILE", help="Held-out rows.")] = Path(
        "data/processed/eval.parquet"
    ),
    sft: Annotated[Path, typer.Option("--sft", metavar="DIR", help="Whose responses are compared.")] = Path(
        "models/sft"
    ),
    num_rows: Annotated[int, typer.Option("--num-rows", min=2, help="Of them, drawn by their ids.")] = 64,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Of the SFT model's responses.")] = 48,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the rows, responses and intervals.")] = 0,
    precision: Precision = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Score human text, the SFT model's and texts that nobody wants; see which the reward likes best.

    The unwanted texts: `empty`; `repeated`, a few words over and over; `shuffled gold`, the words of the reference in
    any order; `prompt copy`. One that does not score below human text is a way to cheat, which a policy will find.

    Exit code 0: human text is above them all; 1: hackable; 2: a mistake in the input.
    """
    from triplex.data.tables import SCHEMAS, read_table
    from triplex.models.huggingface import HuggingFaceLM
    from triplex.models.loading import load_causal_lm
    from triplex.rewards.check import SFT, battery, ordering, pick, sampled, tables, ways_to_cheat
    from triplex.rewards.folder import load_reward, load_spec

    rows = pick(read_table(data, SCHEMAS["eval"]).to_pylist(), num_rows, seed)
    if len(rows) < 2:
        raise InputError(data, f"{len(rows)} rows, too few to compare texts on", "hold out more (data.eval_frac)")
    model, tokenizer = load_causal_lm(sft, precision)
    batteries = battery(rows, tokenizer, seed) | {
        SFT: sampled(HuggingFaceLM(model, tokenizer), tokenizer, rows, max_new_tokens, seed)
    }
    scorer = scorer or MODELS / load_spec(reward).perplexity.scorer
    lines = ordering(load_reward(reward, scorer, baselines, precision), rows, batteries, seed)
    ways = ways_to_cheat(lines)
    if as_json:
        typer.echo(json.dumps({"num_rows": len(rows), "texts": [line._asdict() for line in lines], "hackable": ways}))
    else:
        whole, by_part = tables(lines)
        Console().print(whole, "", by_part, sep="\n")
        typer.echo("\n".join(ways) or f"sound: on {len(rows)} rows human text is above every text that nobody wants")
    raise typer.Exit(HACKABLE if ways else 0)


@app.command(
    epilog="""
* `python -m triplex.rewards serve`: prints the URL for OpenRLHF's `--reward.remote_url`; Ctrl-C ends it
* `TRIPLEX_REWARD_TOKEN=$(openssl rand -hex 16) python -m triplex.rewards serve --port 5000`: a URL known beforehand
"""
)
def serve(
    reward: Reward = Path("models/reward"),
    scorer: Scorer = None,
    baselines: Baselines = Path("data/baselines.parquet"),
    precision: Precision = "float32",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")] = 0,
    max_batch_size: Annotated[int, typer.Option("--max-batch-size", min=1, help="Responses scored at once.")] = 64,
    max_wait_ms: Annotated[float, typer.Option("--max-wait-ms", min=0, help="A request waits for others.")] = 5.0,
) -> None:
    """Serve the reward on this machine until Ctrl-C or SIGTERM.

    The URL holds a secret: TRIPLEX_REWARD_TOKEN from the environment (16 characters or more), else a random one.
    """
    from triplex.rewards.folder import load_reward, load_spec
    from triplex.rewards.server import serve as serve_reward

    scorer = scorer or MODELS / load_spec(reward).perplexity.scorer
    serve_reward(
        load_reward(reward, scorer, baselines, precision),
        port=port,
        max_batch_size=max_batch_size,
        max_wait_ms=max_wait_ms,
        token=os.environ.get("TRIPLEX_REWARD_TOKEN") or secrets.token_urlsafe(),
        ready=typer.echo,
    )


def main() -> None:
    """Run the command line; the user's mistakes end in their message and exit code 2."""
    with errors_in_words():
        app()


if __name__ == "__main__":
    main()
