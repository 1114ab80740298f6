"""Presets: files of sections for known jobs, and profiles of other projects' numbers, put into params.yaml."""

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.overrides import leaves, read_document, spliced
from triplex.runs.errors import InputError
from triplex.runs.params import PARAMS_FILE, nearest

PRESETS = Path("presets")
DATA_DIR = "DATA_DIR"


def descriptions(folder: Path = PRESETS) -> dict[str, str]:
    """The presets by name with what each is for, the comment in its first line."""
    if not folder.is_dir():
        raise InputError(folder, "no such folder", "run from the repository's root")
    return {
        path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for path in sorted(folder.glob("*.yaml"))
    }


def with_preset(name: str, data: Path | None, folder: Path = PRESETS, path: Path = PARAMS_FILE) -> tuple[Any, YAML]:
    """(params.yaml with the preset's sections in the place of its own, its layout); nothing is written.

    `DATA_DIR` in the preset's paths becomes the folder `data`. All other lines of params.yaml stay as they are.
    InputError for an unknown name, a folder that does not exist, or one that the preset needs or does not take.
    """
    preset, preset_layout = _read_preset(name, data, folder)
    dumped = StringIO()
    preset_layout.dump(preset, dumped)
    _, layout = read_document(path)
    return layout.load(spliced(path.read_text(encoding="utf-8"), dumped.getvalue())), layout


def _read_preset(name: str, data: Path | None, folder: Path) -> tuple[Any, YAML]:
    """The preset's own sections, filled in, and their layout."""
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


def _fill(node: Any, folder: str) -> Any:
    if isinstance(node, str):
        return node.replace(DATA_DIR, folder)
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        node[key] = _fill(node[key], folder)
    return node
