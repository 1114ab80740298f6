"""Where a run comes from: hashes that name it, the machines it ran on, how far it can be repeated, its parameters."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

HASH_DIGITS = 12
DEFAULT = "default"


class Departure(NamedTuple):
    """A parameter whose value differs from the preset's; None where it is absent."""

    key: str
    preset: str | None
    run: str | None


@dataclass(frozen=True)
class Stage:
    """The first digits of a manifest's SHA-256, and of what its stage wrote, by path."""

    manifest: str
    outputs: dict[str, str]


@dataclass(frozen=True)
class Origin:
    """A run's identity. `run` covers all manifests, `code` every file of code that a stage read, `data` its data."""

    run: str
    code: str
    num_code_files: int
    data: str
    stages: dict[str, Stage]
    environments: dict[str, list[str]]  # each in words, and the stages that ran in it
    level: str
    promise: str


def origin(manifests: Mapping[str, bytes]) -> Origin:
    """Of the stages whose manifests are given, by name; equal runs have equal origins, whenever they ran."""
    stages = {name: json.loads(content) for name, content in manifests.items()}
    code = {
        (path, digest) for stage in stages.values() for path, digest in stage["inputs"].items() if path.endswith(".py")
    }
    environments: dict[str, list[str]] = {}
    for name, stage in stages.items():
        environments.setdefault(_in_words(stage["environment"]), []).append(name)
    level, promise = _level(len(environments))
    return Origin(
        run=_digest((name, sha256(content).hexdigest()) for name, content in manifests.items()),
        code=_digest(code),
        num_code_files=len(code),
        data=_digest(stages["prepare"]["outputs"].items()),
        stages={
            name: Stage(
                sha256(manifests[name]).hexdigest()[:HASH_DIGITS],
                {path: digest[:HASH_DIGITS] for path, digest in stage["outputs"].items()},
            )
            for name, stage in stages.items()
        },
        environments=environments,
        level=level,
        promise=promise,
    )


def departures(params: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[Departure]]:
    """The preset from which the fewest values of `params` differ, and those values.

    A preset is laid over the one named `default`, section by section, as `python -m pipelines preset` does; of two that
    are equally near, the first by name, but the default before all. Of a section that `params` lacks, that of an
    algorithm which is not trained, nothing differs.
    """
    whole = {name: {**presets[DEFAULT], **preset} for name, preset in sorted(presets.items())}
    found = {
        name: _differing({section: value for section, value in preset.items() if section in params}, params)
        for name, preset in whole.items()
    }
    return min(found.items(), key=lambda item: (len(item[1]), item[0] != DEFAULT))


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested mappings as JSON, with their dotted keys."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, json.dumps(value, ensure_ascii=False)


def _differing(preset: Mapping[str, Any], params: Mapping[str, Any]) -> list[Departure]:
    theirs, ours = dict(flat(preset)), dict(flat(params))
    keys = sorted(ours.keys() | theirs.keys())  # not in the file's order: DVC sees values alone
    return [Departure(key, theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)]


def _level(num_environments: int) -> tuple[str, str]:
    if num_environments == 1:
        return "D1", "the same code, parameters and class of machine give the same bytes"
    return "D0", "seeded; the stages ran on different machines, so no one machine gives all of these bytes"


def _in_words(environment: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{package} {version}" for package, version in environment["packages"].items())
    processor = environment["gpu"] or environment["processor"]
    where = f"{environment['system']} {environment['machine']}, {processor}, {environment['vector']}"
    return f"Python {environment['python']} on {where}; {packages}"


def _digest(entries: Iterable[tuple[str, str]]) -> str:
    """The first digits of the SHA-256 of a list of names and hashes, whatever its order."""
    lines = sorted(f"{digest}  {name}\n" for name, digest in entries)
    return sha256("".join(lines).encode()).hexdigest()[:HASH_DIGITS]
