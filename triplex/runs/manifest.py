"""What a stage read, wrote and ran on, file by file with SHA-256; inputs are held to what their stage wrote."""

import platform
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from triplex.runs.errors import InputError
from triplex.runs.files import sha256_file, write_text
from triplex.runs.params import PARAMS_FILE, load_yaml
from triplex.runs.seal import sealed, unsealed

DVC_FILE = Path("dvc.yaml")
MANIFESTS = Path("reports/manifests")
_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy", "accelerate", "peft", "safetensors")


class FileHash(TypedDict):
    """One file's SHA-256 (hex) and size in bytes."""

    sha256: str
    size: int


def check_inputs(deps: Sequence[str]) -> dict[str, str]:
    """Each dep's SHA-256, as `sha256_tree` gives it, after those of other stages were held to their manifests.

    InputError for a dep that is missing, that its stage has not finished, or that differs from what its stage wrote.
    A stage that declares no manifest among its outs is not one of ours, and is not looked at.
    """
    for dep in deps:
        if not Path(dep).exists():
            raise InputError(dep, "missing", "run the stage that writes it: `dvc repro` runs what is needed")
    producers = {out: name for name, declared in declarations().items() for out in declared["outs"]}
    known: dict[str, dict[str, Any]] = {}
    hashes = {}
    for dep in deps:
        files = hash_files(dep)
        hashes[dep] = tree_hash(dep, files)
        producer = _producer(dep, producers)
        if producer is None or str(manifest_path(producer)) not in producers:
            continue
        if producer not in known:
            known[producer] = read_manifest(producer)
        if Path(dep) != manifest_path(producer):
            _compare(dep, files, producer, known[producer]["files"])
    return hashes


def write_manifest(identity: Mapping[str, Any], outs: Sequence[str]) -> None:
    """Write the manifest of the stage `identity["stage"]`: `identity` (stage, params, inputs) and what `outs` hold.

    `outputs` has one hash for each of `outs`, `files` one for each file in them, `environment` what the bytes may
    depend on beside the inputs. The last key is the SHA-256 of the text before it.
    """
    path = manifest_path(identity["stage"])
    files: dict[str, FileHash] = {}
    outputs = {}
    for out in outs:
        if Path(out) != path:
            found = hash_files(out)
            outputs[out] = tree_hash(out, found)
            files |= found
    write_text(path, sealed({**identity, "outputs": outputs, "files": files, "environment": environment()}))


def read_manifest(name: str, root: Path = Path(".")) -> dict[str, Any]:
    """The manifest of stage `name` below `root`; InputError if it is missing or not, byte for byte, as written."""
    path = root / manifest_path(name)
    if not path.is_file():
        what = f"missing: the stage {name} has not finished"
        raise InputError(path, what, f"`dvc repro {name}` finishes it; `python -m pipelines doctor` looks for more")
    value = unsealed(path.read_bytes())
    if value is None:
        raise InputError(path, "damaged: its last line is not the SHA-256 of the rest", remedy(name))
    return value


def manifest_path(name: str) -> Path:
    """Where stage `name` writes its manifest: reports/manifests/train-ppo.json for train@ppo."""
    return MANIFESTS / f"{name.replace('@', '-')}.json"


def remedy(name: str) -> str:
    """What mends a damaged output of a stage."""
    return f"`python -m pipelines doctor` restores it, `dvc repro --force --single-item {name}` makes it anew"


def declarations(path: Path = DVC_FILE) -> dict[str, dict[str, list[str]]]:
    """`deps` and `outs` (metrics and plots with them) of every stage of dvc.yaml, a `matrix` stage as NAME@VALUE."""
    values = load_yaml(path.with_name(PARAMS_FILE.name))

    def paths(stage: Mapping[str, Any], section: str, item: str) -> list[str]:
        entries = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in stage.get(section, [])]
        named = [re.sub(r"\$\{item\.\w+\}", item, entry) for entry in entries]
        return [re.sub(r"\$\{(\w+)\[(\d+)\]\}", lambda m: str(values[m[1]][int(m[2])]), entry) for entry in named]

    found = {}
    for base, stage in load_yaml(path)["stages"].items():
        for items in stage.get("matrix", {"": [""]}).values():
            for item in values[items.strip("${}")] if isinstance(items, str) else items:
                outs = [path for section in ("outs", "metrics", "plots") for path in paths(stage, section, item)]
                found[f"{base}@{item}" if item else base] = {"deps": paths(stage, "deps", item), "outs": outs}
    return found


def environment() -> dict[str, Any]:
    """What the bytes may depend on beside the inputs: interpreter, processor, graphics processor, package versions."""
    import torch  # which takes seconds; who only reads manifests, as the flow does, need not wait for it

    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: version(name) for name in _PACKAGES},
    }


def hash_files(path: str | Path) -> dict[str, FileHash]:
    """Of a file, or of each file below a folder, by its path and in the order of names."""
    path = Path(path)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.as_posix(): {"sha256": sha256_file(file), "size": file.stat().st_size} for file in files}


def tree_hash(path: str, files: Mapping[str, FileHash]) -> str:
    """What `sha256_tree(path)` gives, from the hashes of its files."""
    if list(files) == [Path(path).as_posix()]:
        return files[Path(path).as_posix()]["sha256"]
    digest = sha256()
    for name, entry in files.items():
        digest.update(f"{PurePosixPath(name).relative_to(path)}\0{entry['sha256']}\n".encode())
    return digest.hexdigest()


def _producer(dep: str, producers: Mapping[str, str]) -> str | None:
    """The stage that writes `dep` or a folder around it."""
    return next((producers[str(place)] for place in (Path(dep), *Path(dep).parents) if str(place) in producers), None)


def _compare(dep: str, files: Mapping[str, FileHash], producer: str, written: Mapping[str, FileHash]) -> None:
    """InputError unless `files`, all those of `dep`, are what `producer` wrote there."""
    expected = {name: entry for name, entry in written.items() if Path(dep) in (Path(name), *Path(name).parents)}
    for name in sorted(files.keys() | expected.keys()):
        if name not in files:
            raise InputError(name, f"missing, though the stage {producer} wrote it", remedy(producer))
        if name not in expected:
            raise InputError(name, f"not a file that the stage {producer} wrote", f"move it away; {remedy(producer)}")
        if files[name] != expected[name]:
            what = (
                f"not what the stage {producer} wrote: its SHA-256 is {files[name]['sha256']}, that of the manifest"
                f" {expected[name]['sha256']}"
            )
            raise InputError(name, what, remedy(producer))


def _processor() -> str:
    """The processor's model, as Linux tells it: other models have other kernels, hence other last bits."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (found := re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)):
        return found[1].strip()
    return platform.processor()
