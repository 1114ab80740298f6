"""What every parameter means: a JSON Schema for editors and docs/parameters.md, both written from the models."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model

from pipelines.graph import stage_modules
from pipelines.schema import SCHEMA, models_of, values_of
from triplex.runs.files import write_text
from triplex.runs.params import SECTIONS, Section

PAGE = Path("docs/parameters.md")

_INTRODUCTION = """# Parameters

<!-- written by `python -m pipelines.parameters` -->

Every key of `params.yaml`, from the models that read it. An editor that knows YAML schemas (VS Code with the YAML
extension, PyCharm, Neovim) shows the same while you write: `params.yaml` names `params.schema.json` in its first line.
A key that is none of these, a value of another type or out of its range ends a run before it starts, with the line and
the nearest known key.
"""


def whole_model() -> type[BaseModel]:
    """All sections that any stage reads, those of the algorithms optional."""
    fields: dict[str, Any] = {}
    for name in sorted(set(stage_modules().values())):
        module = importlib.import_module(name)
        by_algorithm = getattr(module, "PARAMS", {})
        selection = [module.Selection] if by_algorithm else []
        for model in [module.Params, *selection, *by_algorithm.values()]:
            for section, field in model.model_fields.items():
                fields[section] = (field.rebuild_annotation(), None if section in by_algorithm else ...)
    return create_model("Parameters", __base__=Section, **{name: fields[name] for name in SECTIONS})


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of params.yaml."""
    found = whole_model().model_json_schema(by_alias=True)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "params.yaml"}
    return head | _tidied(found) | {"description": "every number that changes a result"}


def page(whole: dict[str, Any]) -> str:
    """docs/parameters.md: a table for each group of keys."""
    lines = [_INTRODUCTION]
    for section, node in whole["properties"].items():
        lines += [f"## `{section}`", "", *_group(whole, section, node)]
    return "\n".join(lines)


def _tidied(node: Any) -> Any:
    """Without the titles that pydantic derives from names, and without null: a key is absent or has a value."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _tidied(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if {"type": "null"} in kept.get("anyOf", []):
        others = [choice for choice in kept.pop("anyOf") if choice != {"type": "null"}]
        kept = ({"anyOf": others} if len(others) > 1 else others[0]) | kept
    if kept.get("default", 0) is None:
        del kept["default"]
    return kept


def _group(whole: dict[str, Any], path: str, node: dict[str, Any]) -> Iterator[str]:
    """The lines of one mapping, then those of the mappings in it; of a plain value its line alone."""
    for model in models_of(whole, node):
        kind = model["properties"].get("kind", {}).get("const")
        if kind:
            yield from (f"### `{path}`, `kind: {kind}`", "")
        yield from (
            model.get("description", ""),
            "",
            "| key | value | meaning | unit | source |",
            "|---|---|---|---|---|",
        )
        inner = []
        for key, value in model["properties"].items():
            if key == "kind" and kind:
                continue
            if models_of(whole, value):
                inner.append((f"{path}.{key}", value))
            yield f"| `{path}.{key}` | {values_of(whole, value)} | {_meaning(whole, key, model)} | {_source(value)} |"
        yield ""
        for name, value in inner:
            if not any("kind" in each["properties"] for each in models_of(whole, value)):
                yield from (f"### `{name}`", "")
            yield from _group(whole, name, value)
    if not models_of(whole, node):
        yield from (f"{values_of(whole, node)}. {node.get('description', '')}".strip(), "")


def _meaning(whole: dict[str, Any], key: str, model: dict[str, Any]) -> str:
    node = model["properties"][key]
    inner = "" if "oneOf" in node else " ".join(each.get("description", "") for each in models_of(whole, node))
    text = node.get("description") or inner
    optional = key not in model.get("required", [])
    default = f"; `{json.dumps(node['default'])}` where it is left out" if node.get("default") not in (None, []) else ""
    unmoving = "" if node.get("moves_weights", True) else "; no weight depends on it"
    return text.replace("|", "\\|") + unmoving + (default or ("; may be left out" if optional else ""))


def _source(node: dict[str, Any]) -> str:
    """The cells of unit and source."""
    source = node.get("source", "")
    if source.startswith("arXiv "):
        source = f"[{source}](https://arxiv.org/abs/{source.removeprefix('arXiv ')})"
    return f"{node.get('unit', '')} | {source}"


def main() -> None:
    """Write both files."""
    whole = schema()
    write_text(SCHEMA, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    write_text(PAGE, page(whole))
    print(f"{SCHEMA}, {PAGE}")


if __name__ == "__main__":
    main()
