"""plot: the pictures and the report of a run."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
import json
from pathlib import Path

from pyarrow import csv

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.tables import read_table
from triplex.evaluation.comparison import compare
from triplex.evaluation.plots import comparison_pictures, distribution_pictures, training_pictures
from triplex.evaluation.report import render_report
from triplex.runs.errors import errors_in_words
from triplex.runs.files import atomic_path, write_text
from triplex.runs.guard import guarded
from triplex.runs.manifest import MANIFESTS, declarations
from triplex.runs.params import PARAMS_FILE, ComputeConfig, Section, Seed, load_yaml, read_params
from triplex.runs.stage import run_stage

EVALUATION, SAMPLES, METRICS = Path("reports/eval.json"), Path("reports/samples.parquet"), Path("reports/metrics")
PRESETS, PLOTS, OUT = Path("presets"), Path("reports/plots"), Path("reports/index.html")


class Params(Section):
    """The sections of params.yaml that this stage computes with; the report shows the whole file."""

    seed: Seed
    compute: ComputeConfig


def main() -> None:
    """Read metrics, evaluation and manifests; draw; write the page."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("plot", params) as run:
            # only what dvc.yaml declares: a file left over from another configuration is no part of this run
            inputs = [Path(path) for path in declarations()[run.name]["deps"]]
            tsv = csv.ParseOptions(delimiter="\t")
            curves = {
                path.stem: csv.read_csv(path, parse_options=tsv).to_pydict()
                for path in inputs
                if path.parent == METRICS
            }
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
            presets = {path.stem: load_yaml(path) for path in sorted(PRESETS.glob("*.yaml"))}
            page = render_report(
                evaluation=evaluation,
                measures=measures,
                samples=samples,
                pictures=pictures,
                params=load_yaml(PARAMS_FILE),
                presets=presets,
                manifests=manifests,
                seed=run.seed,
            )
            write_text(OUT, page)
            print(f"plot: {sum(map(len, pictures.values()))} pictures -> {PLOTS}, report -> {OUT}")


if __name__ == "__main__":
    guarded(main)
