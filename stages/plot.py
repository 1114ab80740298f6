"""plot: the pictures and the report of a run."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
import json
from pathlib import Path

from pyarrow import csv

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import SCHEMAS, read_table
from triplex.evaluation.accuracy import Accuracy, accuracies
from triplex.evaluation.comparison import compare
from triplex.evaluation.plots import comparison_pictures, distribution_pictures, training_pictures
from triplex.evaluation.report import render_report
from triplex.rewards.preference import PreferenceConfig
from triplex.rl.health import Health
from triplex.runs.errors import errors_in_words
from triplex.runs.files import atomic_path, write_text
from triplex.runs.guard import guarded
from triplex.runs.manifest import MANIFESTS, declarations
from triplex.runs.params import ComputeConfig, Section, Seed, load_yaml, read_params
from triplex.runs.stage import run_stage

EVALUATION, SAMPLES, METRICS = Path("reports/eval.json"), Path("reports/samples.parquet"), Path("reports/metrics")
REWARD, LABELS = Path("models/reward/reward.json"), Path("data/processed/eval.parquet")
PREFERENCES = Path("data/processed/preferences.parquet")
PRESETS, PLOTS, OUT = Path("presets"), Path("reports/plots"), Path("reports/index.html")


class Params(Section, extra="allow"):
    """The sections of params.yaml that this stage computes with; all others come as they stand, for the report."""

    seed: Seed
    compute: ComputeConfig


def reward_accuracies() -> dict[str, Accuracy]:
    """Of the reward's models, as the stage reward has measured them."""
    spec = json.loads(REWARD.read_bytes())
    preference, labels = spec["config"].get("preference"), read_table(LABELS, SCHEMAS["eval"])["label"].to_pylist()
    config = preference and PreferenceConfig.model_validate(preference)
    return accuracies(spec["accuracy"], labels, config, read_table(PREFERENCES, SCHEMAS["preferences"]).to_pylist())


def main() -> None:
    """Read metrics, evaluation and manifests; draw; write the page."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("plot", params) as run:
            # only what dvc.yaml declares: a file left over from another configuration is no part of this run
            inputs = [Path(path) for path in declarations()[run.name]["deps"]]
            tsv = csv.ParseOptions(delimiter="\t")
            metrics = {path.stem: csv.read_csv(path, parse_options=tsv) for path in inputs if path.parent == METRICS}
            curves = {name: table.to_pydict() for name, table in metrics.items()}
            manifests = {path.stem: path.read_bytes() for path in inputs if path.parent == MANIFESTS}
            evaluation = json.loads(EVALUATION.read_bytes())
            samples = read_table(SAMPLES)
            measures = compare(evaluation, samples, run.seed)
            pictures = {
                "comparison": comparison_pictures(measures),
                "training": training_pictures(curves),
                "distribution": distribution_pictures(samples, list(evaluation["models"]), evaluation["reference"]),
            }
            for picture in (picture for group in pictures.values() for picture in group):
                with atomic_path(PLOTS / f"{picture.name}.png") as temporary:
                    temporary.write_bytes(picture.light)
            whole = params.model_dump(mode="json")
            warnings = {
                name: Health(whole[name]["num_epochs"] * whole[name]["num_minibatches"], table.to_pylist()).warnings
                for name, table in metrics.items()
            }
            presets = {path.stem: load_yaml(path) for path in sorted(PRESETS.glob("*.yaml"))}
            page = render_report(
                evaluation=evaluation,
                measures=measures,
                samples=samples,
                pictures=pictures,
                accuracies=reward_accuracies(),
                warnings=warnings,
                params=whole,
                presets=presets,
                manifests=manifests,
                seed=run.seed,
            )
            write_text(OUT, page)
            print(f"plot: {sum(map(len, pictures.values()))} pictures -> {PLOTS}")
            print(f"report: {OUT}, which `python -m pipelines report` opens")


if __name__ == "__main__":
    guarded(main)
