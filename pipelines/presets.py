"""Presets: whole params.yaml files for known jobs, written over params.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.overrides import leaves, read_document
from triplex.runs.errors import InputError
from triplex.runs.params import PARAMS_FILE, load_yaml, nearest

PRESETS = Path("presets")
DATA_DIR = "DATA_DIR"


@dataclass(frozen=True)
class Change:
    """A key of params.yaml whose value differs; None where it is absent."""

    key: str
    old: Any
    new: Any


def descriptions(folder: Path = PRESETS) -> dict[str, str]:
    """The presets by name with what each is for, the comment in its first line."""
    return {
        path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for path in sorted(folder.glob("*.yaml"))
    }


def read_preset(name: str, data: Path | None, folder: Path = PRESETS) -> tuple[Any, YAML]:
    """The preset's document and layout, `DATA_DIR` in its paths replaced by the folder `data`.

    InputError for an unknown name, a folder that does not exist, or one that the preset needs or does not take.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise InputError("preset", f"no preset {name!r} in {folder}/", nearest(name, descriptions(folder)))
    document, layout = read_document(path)
    takes_data = any(DATA_DIR in str(value) for _, value in leaves(document))
    if takes_data and data is None:
        raise InputError(path, "reads files of your own", f"name their folder: preset {name} --data FOLDER")
    if data is not None and not takes_data:
        raise InputError(f"--data {data}", f"preset {name} reads no folder of data", "leave --data out")
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data}", "no such folder")
    return _fill(document, str(data)), layout


def differences(document: Any, path: Path = PARAMS_FILE) -> list[Change]:
    """What writing `document` over params.yaml would change, in the document's order."""
    old, new = dict(leaves(load_yaml(path))), dict(leaves(document))
    return [Change(key, old.get(key), new.get(key)) for key in {**new, **old} if old.get(key) != new.get(key)]


def _fill(node: Any, folder: str) -> Any:
    if isinstance(node, str):
        return node.replace(DATA_DIR, folder)
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        node[key] = _fill(node[key], folder)
    return node
