"""The schema and the page of parameters say what the models say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipelines.parameters import PAGE, page, schema, whole_model
from pipelines.schema import SCHEMA
from triplex.runs.params import load_yaml

PARAMS = load_yaml(Path("params.yaml"))
PRESETS = sorted(Path("presets").glob("*.yaml"))


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def test_both_files_are_written_from_the_models(written: dict[str, Any]) -> None:
    """`python -m pipelines.parameters` writes them anew."""
    assert written == schema()
    assert PAGE.read_text(encoding="utf-8") == page(written)


def test_every_key_is_explained(written: dict[str, Any]) -> None:
    silent = [
        f"{name}.{key}"
        for name, model in written["$defs"].items()
        for key, value in model["properties"].items()
        if "description" not in value | written["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
        and key != "kind"
    ]
    assert not silent
    assert PARAMS.keys() <= written["properties"].keys()


@pytest.mark.parametrize("path", [None, *PRESETS], ids=lambda path: path.stem if path else "params.yaml")
def test_what_the_models_take_the_schema_takes(written: dict[str, Any], path: Path | None) -> None:
    values = PARAMS | (load_yaml(path) if path else {})
    assert [error.message for error in Draft202012Validator(written).iter_errors(values)] == []


def changed(key: str, value: Any) -> dict[str, Any]:
    values = json.loads(json.dumps(PARAMS))
    *sections, last = key.split(".")
    node = values
    for section in sections:
        node = node[section]
    node[last] = value
    return values


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1), ("seed", "7"), ("train.kl_coef", -0.1), ("train.learing_rate", 1.0), ("ppo.gamma", 1.01),
        ("grpo.group_size", 1), ("compute.threads", 1.5), ("train.kl_control.kind", "free"), ("data.source.kind", None),
        ("reward.perplexity.level_weights", "novel"), ("base.model.hidden_size", 12), ("train.lora", {}),
    ],
)  # fmt: skip
def test_what_the_models_refuse_the_schema_refuses(written: dict[str, Any], key: str, value: Any) -> None:
    values = changed(key, value)
    validate: Callable[[Any], Any] = whole_model().model_validate
    with pytest.raises(ValueError, match=r"validation error"):
        validate(values)
    assert list(Draft202012Validator(written).iter_errors(values))
