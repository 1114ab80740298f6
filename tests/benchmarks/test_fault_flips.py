from collections.abc import Iterator

import pytest

from benchmarks.fault_flips import FOUND, NUM_CUTS, SILENT, Kind, outcomes, project

NUM_FLIPS = 4
KINDS = (
    "models/base/model.safetensors", "models/base/tokenizer.json", "data/processed/sft.parquet",
    "data/baselines.parquet", "reports/metrics/ppo.tsv", "reports/eval.json", "manifest", "checkpoint: state.pt",
    "checkpoint: manifest.json", "params.yaml", "dvc.lock", "reports/index.html", "cache object",
    "cache object: list of a folder", "record of a run",
)  # fmt: skip


@pytest.fixture(scope="module")
def kinds() -> Iterator[dict[str, Kind]]:
    with project() as found:
        yield {kind.name: kind for kind in found}


@pytest.mark.parametrize("name", KINDS)
def test_no_damage_stays_unnoticed(kinds: dict[str, Kind], name: str) -> None:
    counts = outcomes(kinds[name], NUM_FLIPS)
    assert counts.total() == NUM_FLIPS + NUM_CUTS
    assert counts[SILENT] == 0


def test_every_kind_is_tested(kinds: dict[str, Kind]) -> None:
    assert tuple(kinds) == KINDS


def test_a_reader_that_looks_at_nothing_is_told_as_silent(kinds: dict[str, Kind]) -> None:
    blind = kinds["cache object"]._replace(asked=lambda: SILENT)
    assert outcomes(blind, NUM_FLIPS) == {SILENT: NUM_FLIPS + NUM_CUTS}
    assert outcomes(kinds["cache object"], NUM_FLIPS) == {FOUND: NUM_FLIPS + NUM_CUTS}
