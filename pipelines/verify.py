"""`python -m pipelines verify`: is this run what its commit gives?"""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from triplex.runs.errors import Exit

EXAMPLES = """
* `python -m pipelines verify`: everything, as long as the run itself took
* `python -m pipelines verify --stage sft`: this stage alone, on the inputs that lie here
* `python -m pipelines verify --steps 10`: the first steps of every training, by their digests
* `python -m pipelines verify HEAD~1 --stage train@ppo`: of an older run, from DVC's cache
* `python -m pipelines verify --stage sft --json | jq -r .level`
"""


def verify(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A folder or a git revision.")] = ".",
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Execute this stage alone.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, metavar="K", help="Execute K steps of each training, no more.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; the lines go to standard error.")
    ] = False,
) -> None:
    """Hash every file anew against dvc.lock and the manifests, then execute the stages anew and compare every byte.

    Each stage runs in a fresh clone of the commit, on the inputs that have been verified, with nothing to restore
    from. In another environment than the manifest's, numbers are compared within a tolerance, and the level of
    reproducibility is told. Exit code 0: MATCH; 1: something differs, and is named; 2: a mistake in the input.
    """
    from pipelines.proof import prove  # torch takes seconds to import

    proof = prove(run, stage, steps, Console(stderr=as_json, soft_wrap=True, highlight=False, markup=False))
    if as_json:
        stages = [asdict(verdict) for verdict in proof.verdicts]
        typer.echo(json.dumps({"matches": proof.matches, "level": proof.level, "stages": stages}))
    raise typer.Exit(Exit.DONE if proof.matches else Exit.FAILED)
