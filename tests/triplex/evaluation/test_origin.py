from hashlib import sha256

import pytest

from pipelines.presets import PRESETS as PRESET_FILES
from pipelines.presets import with_preset
from tests.triplex.evaluation.conftest import ENVIRONMENT, PARAMS, PRESETS, manifests
from triplex.evaluation.origin import departures, flat, origin
from triplex.runs.params import load_yaml


def test_hashes_by_hand() -> None:
    found = origin(manifests())
    lines = sorted(f"{sha256(content).hexdigest()}  {name}\n" for name, content in manifests().items())
    assert found.run == sha256("".join(lines).encode()).hexdigest()[:12]
    code = f"{'12' * 32}  stages/prepare.py\n{'34' * 32}  triplex/runs/seeds.py\n"
    assert (found.code, found.num_code_files) == (sha256(code.encode()).hexdigest()[:12], 2)
    assert found.data == sha256(f"{'ab' * 32}  data/processed\n".encode()).hexdigest()[:12]
    assert found.stages["evaluate"].outputs == {"reports/eval.json": "cd" * 6}


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"evaluate": {"params": {"seed": 8}}}, {"code", "data"}),
        ({"prepare": {"inputs": {"stages/prepare.py": "00" * 32}}}, {"data"}),
        ({"prepare": {"outputs": {"data/processed": "00" * 32}}}, {"code"}),
    ],
)
def test_each_hash_names_its_own_part(changed: dict, same: set[str]) -> None:
    one, other = origin(manifests()), origin(manifests(**changed))
    assert {name for name in ("run", "code", "data") if getattr(one, name) == getattr(other, name)} == same


def test_one_class_of_machine_is_d1_and_several_are_d0() -> None:
    assert origin(manifests()).level == "D1"
    mixed = origin(manifests(evaluate={"environment": ENVIRONMENT | {"gpu": "H100"}}))
    assert mixed.level == "D0"
    assert list(mixed.environments.values()) == [["prepare"], ["evaluate"]]
    assert "H100" in list(mixed.environments)[1]


def test_the_nearest_preset_is_named_with_what_differs_from_it() -> None:
    assert departures(PARAMS, PRESETS) == ("default", [])
    tiny = PARAMS | PRESETS["tiny"]
    assert departures(tiny, PRESETS) == ("tiny", [])
    assert departures(tiny | {"seed": 9}, PRESETS) == ("tiny", [("seed", "17", "9")])
    without = {name: value for name, value in PARAMS.items() if name != "seed"} | {"new": True}
    assert departures(without, PRESETS) == ("default", [("new", None, "true")])


def test_of_two_equally_near_the_default_is_named() -> None:
    assert departures(PARAMS, {"a": PARAMS, "default": PARAMS, "z": PARAMS})[0] == "default"


def test_what_the_command_line_writes_is_recognised() -> None:
    document, _ = with_preset("tiny", None)
    presets = {path.stem: load_yaml(path) for path in PRESET_FILES.glob("*.yaml")}
    assert departures(document, presets) == ("tiny", [])


def test_leaves_have_dotted_keys_and_are_json() -> None:
    assert list(flat({"a": {"b": 1, "c": [1, "x"]}, "d": None})) == [("a.b", "1"), ("a.c", '[1, "x"]'), ("d", "null")]
    assert list(flat(7)) == [("", "7")]
