"""What params.schema.json says of a key: which values it takes, and whether it takes this one."""

import json
import re
from pathlib import Path
from typing import Any

from triplex.runs.errors import InputError
from triplex.runs.params import PARAMS_FILE, nearest

SCHEMA = Path("params.schema.json")
_NAMES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def check_schema(document: dict[str, Any]) -> None:
    """InputError for the first value of a document that params.schema.json refuses.

    The models say more, but to import them takes seconds. What is wrong with a mapping as a whole is left to them.
    """
    from jsonschema import Draft202012Validator

    whole = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for error in Draft202012Validator(whole).iter_errors(document):
        if isinstance(error.instance, dict):
            continue
        key = error.json_path.removeprefix("$.")
        choices, meaning = error.schema.get("enum"), error.schema.get("description")
        remedy = nearest(str(error.instance), choices) if choices else f"it takes: {values_of(whole, error.schema)}"
        remedy += f"\n  meaning: {meaning}" if meaning else ""
        section = re.split(r"[.[]", key)[0]
        raise InputError(f"{PARAMS_FILE}: {key}", error.message, f"{remedy}\n  more: docs/parameters.md#{section}")


def models_of(whole: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    """The mappings that a value may be."""
    choices = node.get("oneOf") or node.get("anyOf") or [node.get("items", node)]
    names = [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]
    return [whole["$defs"][name] for name in names]


def values_of(whole: dict[str, Any], node: dict[str, Any]) -> str:
    """Which values a key takes."""
    if "oneOf" in node:
        return "by `kind`: " + ", ".join(f"`{kind}`" for kind in node["discriminator"]["mapping"])
    if "$ref" in node:
        return "below"
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(values_of(whole, choice) for choice in node["anyOf"]))
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"list of {values_of(whole, node['items'])}" if "$ref" not in node["items"] else "list, below"
    found = [f"{sign} {node[limit]:g}" for limit, sign in _LIMITS.items() if limit in node]
    return ", ".join([_NAMES.get(node.get("type", ""), "mapping"), *found])
