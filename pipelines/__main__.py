"""The command line: `python -m pipelines --help`."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from pipelines import data, diff, env, generate, plan, publish, report, serve, verify
from pipelines.doctor import command as doctor
from triplex.runs.command import command_line, counted
from triplex.runs.errors import Exit, errors_in_words
from triplex.runs.params import PARAMS_FILE, load_yaml

app = command_line(
    "Triplex: data, base model, SFT, baselines, reward, PPO and GRPO, evaluation, plots; stages of dvc.yaml.",
    """
* `python -m pipelines status`: what would run
* `python -m pipelines run`: run it, and watch it on Prefect's page
* `python -m pipelines run train@ppo -S ppo.learning_rate=1e-5`: one stage with another parameter
* `python -m pipelines preset tiny`: known parameters, of a whole job or of an algorithm
* `python -m pipelines generate --model models/sft --model models/ppo --prompt "The film"`: side by side
* `python -m pipelines verify`: is this run what its commit gives?
* `python -m pipelines diff ../other .`: where two runs part
* `python -m pipelines publish models/ppo --to ../kind-reviews`: a model and its card, for others
* `python -m pipelines doctor`: what is wrong here, and what mends it
* `python -m pipelines plan --model llama-3-8b --gpus 8`: does it fit, and how long would a step take?
* `python -m pipelines data validate reviews.csv`: every problem of a file, with its row
* `python -m pipelines report`: the page of the last run
* `python -m pipelines env`: machine, versions and commit, for an issue
* `python -m pipelines run --help`: more

Exit codes: 0 done; 1 it failed, or a check says no; 2 a mistake in the input; 71 no memory; 74 no disk space; 75
something runs already; 130 Ctrl-C; 143 SIGTERM.
""",
)

Stages = Annotated[list[str] | None, typer.Argument(metavar="STAGE", help="Stages of dvc.yaml; none means all.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
_COLOURS = {"changed": "yellow", "will follow": "cyan", "up to date": "green"}


@app.command(
    epilog="""
* `python -m pipelines run`: all that is not up to date
* `python -m pipelines run train@ppo`: one stage and what it needs
* `python -m pipelines run train`: train@ppo and train@grpo
* `python -m pipelines run evaluate --only --force`: this stage alone
* `python -m pipelines run -S ppo.learning_rate=1e-5`: a parameter first
"""
)
def run(
    stages: Stages = None,
    only: Annotated[bool, typer.Option("--only", help="Exactly these stages, not what they need.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run them even if they are up to date.")] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("-S", metavar="KEY=VALUE", help="Written into params.yaml first; repeatable.")
    ] = None,
) -> None:
    """Run stages through DVC as a Prefect flow.

    TRIPLEX_PARALLEL_STAGES (2) is the number of stages side by side. Exit code 0: done; 1: a stage failed;
    2: a mistake in the input; 75: a flow is running already; 130: Ctrl-C; 143: SIGTERM.
    """
    from pipelines import environment, overrides
    from pipelines.request import one_flow_at_a_time, prepare
    from pipelines.server import start_server

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.TERMINATED))
    environment.prepare()
    try:
        params = overrides.parse(assignments or [])
        overrides.check(params)  # what can be told before anything starts
        wait_for_server = start_server()
        with one_flow_at_a_time():
            plan = prepare(stages or [], only, params)  # as the flow does; here a mistake has no traceback
        from pipelines.flow import triplex  # Prefect reads the server's address when it is imported

        wait_for_server()
        state = triplex(stages or [], only, force, params, return_state=True)
    except KeyboardInterrupt:  # before the flow has begun, or a second one
        raise _ctrl_c("ended at once") from None
    if state.is_cancelled():
        raise _ctrl_c(str(state.message))
    if not state.is_completed():
        raise typer.Exit(Exit.FAILED)
    if any(str(report.PAGE) in stage.outs for stage in plan.values()):
        typer.echo(report.NAMED)


@app.command()
def check() -> None:
    """Check dvc.yaml and the whole of params.yaml; nothing runs."""
    from pipelines.check import check_params
    from pipelines.graph import read_graph

    read_graph()
    check_params()
    typer.echo("params.yaml: ok")


@app.command(
    epilog="""
* `python -m pipelines status`: what would run
* `python -m pipelines status --json | jq 'map_values(.state)'`
"""
)
def status(as_json: Json = False) -> None:
    """Show which stages are up to date, what has changed for the others, and what will follow them.

    A stage that will follow needs a changed one; it runs if that one gives other bytes. Exit code 0 either way; 2: a
    mistake in dvc.yaml or params.yaml, or a stage is running.
    """
    from pipelines.graph import read_graph
    from pipelines.status import changes, following, shortened

    graph = read_graph()
    changed = changes(graph)
    because = following(graph, changed)
    states = {name: "changed" if changed[name] else "will follow" if because[name] else "up to date" for name in graph}
    if as_json:
        typer.echo(json.dumps({n: {"state": states[n], "changed": changed[n], "after": because[n]} for n in graph}))
        return
    table = Table("stage", "state", Column("why", overflow="fold"), box=None)
    for name, state in states.items():
        why = f"after {shortened(because[name])}" if because[name] else shortened(changed[name])
        table.add_row(name, f"[{_COLOURS[state]}]{state}", escape(why))
    Console().print(table)


@app.command(
    epilog="""
* `python -m pipelines preset`: lists the presets
* `python -m pipelines preset tiny`: writes the sections of presets/tiny.yaml over those of params.yaml
* `python -m pipelines preset trl-grpo`: the numbers of another project's algorithm, for the data at hand
* `python -m pipelines preset rt-polarity --data DIR`: one that reads files of yours
"""
)
def preset(
    name: Annotated[str | None, typer.Argument(help="A file of presets/, without .yaml; none lists them.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Stands for DATA_DIR.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="List them as one JSON object.")] = False,
) -> None:
    """Write the sections of a preset over those of params.yaml, after showing the difference; the others stay.

    Git keeps the old file. What the profiles of other projects hold is told in docs/profiles.md.
    """
    from pipelines import presets
    from pipelines.overrides import differences, shown, write_document

    if name is None and as_json:
        typer.echo(json.dumps(presets.descriptions()))
        return
    if name is None:
        table = Table("preset", "for", box=None)
        for known, description in presets.descriptions().items():
            table.add_row(known, description)
        Console().print(table)
        return
    document, layout = presets.with_preset(name, data_dir)
    key, values = Column("key", no_wrap=True), [Column(name, overflow="fold") for name in ("now", "preset")]
    table = Table(key, *values, box=None)
    for change in differences(load_yaml(PARAMS_FILE), document):
        table.add_row(change.key, escape(shown(change.old)), escape(shown(change.new)))
    if table.row_count:
        Console().print(table)
    write_document(document, layout)
    typer.echo(f"params.yaml: {counted(table.row_count, 'value')} changed by presets/{name}.yaml")


app.command(epilog=generate.EXAMPLES)(generate.generate)
app.command(epilog=verify.EXAMPLES)(verify.verify)
app.command(epilog=diff.EXAMPLES)(diff.diff)
app.command(epilog=publish.EXAMPLES)(publish.publish)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=plan.EXAMPLES)(plan.plan)
app.add_typer(data.app, name="data")
app.command(epilog=report.EXAMPLES)(report.report)
app.command(epilog=env.EXAMPLES)(env.env)


app.command(epilog=serve.EXAMPLES)(serve.serve)


@app.command(
    "prefect",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="""
* `python -m pipelines prefect server start`: the page alone, on http://127.0.0.1:4200

A work pool instead of `serve`, with `PREFECT_API_URL=http://127.0.0.1:4200/api` in the environment of other terminals:

* `python -m pipelines prefect work-pool create triplex --type process`: once, then
* `python -m pipelines prefect --no-prompt deploy --all`: make it startable from the page
* `python -m pipelines prefect worker start --pool triplex`: and run here what is started there
""",
)
def prefect(context: typer.Context) -> None:
    """Run Prefect's own command with this project's settings: its data in .triplex/prefect, telemetry off."""
    from pipelines import environment

    environment.prepare()
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *context.args])


@app.command(hidden=True)
def closure() -> None:
    """Print the Python files that each stage imports, as entries for the `deps` of dvc.yaml."""
    from pipelines.closure import closure as imported
    from pipelines.graph import stage_modules

    for name, module in stage_modules().items():
        typer.echo(f"{name}:")
        for path in sorted(imported(module)):
            typer.echo(f"      - {path}")


def _ctrl_c(what: str) -> typer.Exit:
    """The end of a run that was stopped, after a line on what became of it and the command that goes on."""
    command = shlex.join(["python", "-m", "pipelines", *sys.argv[1:]])
    typer.echo(f"Ctrl-C: {what}\n`{command}` goes on", err=True)
    return typer.Exit(Exit.CTRL_C)


def main() -> None:
    """Run the command line; the user's mistakes end in their message and exit code 2."""
    with errors_in_words():
        app()


if __name__ == "__main__":
    main()
