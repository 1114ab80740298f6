"""The card of a model that is published: that of its folder, with licence, sources, results, hashes and environment."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pipelines.clone import git
from pipelines.origin import Origin
from stages.base import made
from triplex.data.tables import read_table
from triplex.evaluation.accuracy import accuracies
from triplex.evaluation.comparison import Estimate, compare, display, number
from triplex.evaluation.findings import findings
from triplex.models.card import CARD
from triplex.rewards.folder import CLASSIFIER, load_spec
from triplex.runs.manifest import FileHash, read_manifest
from triplex.runs.seeds import derive_seed

MODELS, REWARD, PROCESSED, REPORTS = Path("models"), Path("models/reward"), Path("data/processed"), Path("reports")


class Result(NamedTuple):
    """One number of the model, as the hub's model index has it."""

    key: str
    label: str
    estimate: Estimate


def published_card(model: Path, name: str, origin: Origin, license_id: str, files: Mapping[Path, FileHash]) -> str:
    """The card of `model`, published as `name` with `files` beside it."""
    card = ModelCard((model / CARD).read_text(encoding="utf-8"))
    known = card.data.to_dict() | {"license": license_id} | origin.on_the_hub()
    told, results = _of_the_reward(model) if REWARD in model.parents else _of_a_language_model(model, origin.seed)
    data = ModelCardData(
        **known,
        model_name=name.rpartition("/")[2],
        eval_results=[_in_the_index(known["pipeline_tag"], each) for each in results],
    )
    sections = {
        "Results": told,
        "Sources": _sources(origin, license_id),
        "Files": [
            _row("file", "bytes", "SHA-256"),
            "|---|---|---|",
            *(_row(f"`{file.as_posix()}`", f"{e['size']:,}", f"`{e['sha256']}`") for file, e in files.items()),
        ],
        "Run": _run(),
    }
    added = "".join("\n".join(["", f"## {title}", "", *lines, ""]) for title, lines in sections.items())
    return f"---\n{data.to_yaml()}\n---\n{card.text}{added}"


def _of_a_language_model(model: Path, seed: int) -> tuple[list[str], list[Result]]:
    """Every measure of the report with its interval, beside the reference's, and what differs from that in words."""
    evaluation = json.loads((REPORTS / "eval.json").read_bytes())
    seed = derive_seed(seed, "plot")  # so that the intervals are the report's
    samples = read_table(REPORTS / "samples.parquet")
    measures = compare(evaluation, samples, seed)
    name, reference = model.relative_to(MODELS).as_posix(), evaluation["reference"]
    columns = list(dict.fromkeys([name, reference]))
    told = [
        f"On {evaluation['num_prompts']} held-out prompts; in brackets {100 * evaluation['confidence']:g} % intervals.",
        "",
        _row("measure", *map(display, columns)),
        "|---" * (len(columns) + 1) + "|",
    ]
    for m in measures:
        label = f"{m.label}, {m.unit}" if m.unit else m.label
        told.append(_row(label, *(_told(m.models[column], m.digits) for column in columns)))
    if found := findings(evaluation, samples).get(name):
        told += ["", *(f"- {each.measure}: {each.sentence} ({each.evidence})" for each in found)]
    return told, [Result(m.key, m.label, m.models[name]) for m in measures if m.models[name].value is not None]


def _of_the_reward(model: Path) -> tuple[list[str], list[Result]]:
    """The share of what was held out that a model of the reward gets right, with Wilson's interval."""
    spec, part = load_spec(REWARD), "sentiment" if model.name == CLASSIFIER else "preference"
    labels = read_table(PROCESSED / "eval.parquet")["label"].to_pylist()
    pairs = read_table(PROCESSED / "preferences.parquet").to_pylist()
    found = accuracies(spec.accuracy, labels, spec.config.preference, pairs).get(part)
    if found is None:
        return ["Nothing that could measure it was held out."], []
    told = (
        f"Right on {found.share:.1%} of {found.num} that were held out (95 % interval {found.low:.1%} to "
        f"{found.high:.1%}); guessing gets {found.guessing:.1%}."
    )
    return [told], [Result("accuracy", "Accuracy", Estimate(found.share, found.low, found.high))]


def _told(estimate: Estimate, digits: int) -> str:
    value, low, high = (number(part, digits) for part in estimate)
    return value if estimate.low is None else f"{value} ({low} to {high})"


def _in_the_index(task: str, result: Result) -> EvalResult:
    value, low, high = result.estimate
    interval = {"ci_low": low, "ci_high": high} if low is not None else None
    return EvalResult(
        task_type=task, dataset_type="held-out", dataset_name="held out of the run's data", metric_type=result.key,
        metric_name=result.label, metric_value=value, metric_args=interval,
    )  # fmt: skip


def _sources(origin: Origin, license_id: str) -> list[str]:
    """Base, data and licence."""
    read = json.loads((PROCESSED / "card.json").read_bytes())["sources"]
    data = [f"- data: {each['name']}" + (f", SHA-256 `{each['sha256']}`" if "sha256" in each else "") for each in read]
    others = "; ".join(origin.others())
    told = f"others made {others}" if others else "nothing that went into it was made by others"
    return [f"- base: {made(origin.base)}", *data, f"- licence: {license_id}; {told}"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _run() -> list[str]:
    """The commit, and the environment that the model was evaluated in."""
    where = read_manifest("evaluate")["environment"]
    packages = ", ".join(f"{package} {version}" for package, version in where["packages"].items())
    return [
        f"Commit `{git(Path('.'), 'rev-parse', 'HEAD')}`; every file was hashed anew before it was published.",
        f"Python {where['python']}, {where['system']} {where['machine']}, {where['processor']}; {packages}.",
    ]
