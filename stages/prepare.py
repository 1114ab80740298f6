"""prepare: the source named in params.yaml as the five tables of the pipeline and their data card."""

import triplex.runs.starting  # noqa: I001  (before all that takes time)
from pathlib import Path

import triplex.runs.telemetry  # noqa: F401  (before the libraries that it silences)
from triplex.data.card import summary
from triplex.data.derive import DataConfig, check_files, prepare
from triplex.data.tables import SCHEMAS, write_table
from triplex.runs.errors import errors_in_words
from triplex.runs.files import write_json
from triplex.runs.guard import guarded
from triplex.runs.params import ComputeConfig, Section, Seed, read_params
from triplex.runs.stage import run_stage

OUT = Path("data/processed")


class Params(Section):
    """The sections of params.yaml that this stage reads."""

    seed: Seed
    compute: ComputeConfig
    data: DataConfig


def check(params: Params) -> None:
    """InputError for a data file that is missing, is another than the parameters say, or lacks a column."""
    check_files(params.data)


def main() -> None:
    """Run the stage."""
    with errors_in_words():
        params = read_params(Params)
        with run_stage("prepare", params) as run:
            prepared = prepare(params.data, run.seed)
            for name, schema in SCHEMAS.items():
                write_table(OUT / f"{name}.parquet", prepared.tables[name], schema)
            write_json(OUT / "card.json", prepared.card)
            print(summary(prepared.card))


if __name__ == "__main__":
    guarded(main)
