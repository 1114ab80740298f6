"""`params.yaml` into frozen, strict models; a mistake names its key, line, value and remedy."""

import difflib
import os
import re
import reprlib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from triplex.runs.errors import InputError

PARAMS_FILE = Path("params.yaml")
#: every top-level key of params.yaml; a stage reads only those that it lists in dvc.yaml
SECTIONS = (
    "seed", "compute", "data", "base", "sft", "perplexity", "baseline", "reward", "algorithms", "train",
    "ppo", "grpo", "rloo", "reinforce_pp", "dr_grpo", "dapo", "evaluate",
)  # fmt: skip

#: plain scalars that readers of YAML 1.1 and 1.2 take for different numbers, or for text
_TRAP = re.compile(
    r"[-+]?(0b[01_]+|0[ox][0-9a-fA-F]*_[0-9a-fA-F_]*|(0[0-9][0-9_]*|[0-9]+_[0-9_]*)(\.[0-9_]*)?([eE][-+]?[0-9]+)?)"
)

_DEPTH = 50

Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _two(names: list[str]) -> list[str]:
    if len(set(names)) != 2:
        raise ValueError("name two different ones: they are trained and compared side by side")
    return names


#: the algorithms that are trained, each with the section of its name
Algorithms = Annotated[list[Literal["ppo", "grpo", "rloo", "reinforce_pp", "dr_grpo", "dapo"]], AfterValidator(_two)]


class Section(BaseModel):
    """A part of params.yaml: no unknown key, no coercion, no change after reading, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def described(description: str, *, unit: str = "", source: str = "", moves_weights: bool = True, **field: Any) -> Any:
    """A field of a section: what its key means, its unit, the paper or repository that it comes from, its limits.

    With `moves_weights` false a model has the same weights whatever its value, and its card leaves it out.
    """
    extra: dict[str, Any] = {name: text for name, text in (("unit", unit), ("source", source)) if text}
    if not moves_weights:
        extra["moves_weights"] = False
    return Field(description=description, json_schema_extra=extra or None, **field)


class ZeroConfig(Section):
    """`compute.deepspeed:` what is divided among the workers; needs the package from stage 1 on."""

    zero_stage: int = described(
        "0 nothing, 1 moments, 2 gradients too, 3 weights too", source="arXiv 1910.02054", ge=0, le=3
    )
    offload: bool = Field(description="keep what is divided in the CPU's memory; on a GPU")

    @model_validator(mode="after")
    def _offload_needs_something_divided(self) -> Self:
        if self.offload and self.zero_stage == 0:
            raise ValueError("offload = true, but zero_stage = 0 divides nothing; write offload: false, or a stage")
        return self


class ComputeConfig(Section):
    """`compute:` what the numbers depend on in the machine."""

    executor: Literal["local", "ray", "deepspeed"] = Field(
        description="who starts a training's workers: nobody, Ray (RAY_ADDRESS, else a cluster of its own), torchrun"
    )
    num_workers: int = described(
        "processes that share a training; another count: other bytes", unit="processes", ge=1, le=4096
    )
    threads: int = described("CPU threads of each; another count gives other bytes", unit="threads", ge=1, le=256)
    precision: Literal["float32", "bfloat16"] = Field(description="dtype of forward and backward passes")
    deepspeed: ZeroConfig
    max_failures: int = described(
        "how often workers that died are started again before the stage fails", unit="starts", ge=0
    )

    @model_validator(mode="after")
    def _local_is_one_process(self) -> Self:
        if self.executor == "local" and (self.num_workers > 1 or self.deepspeed.zero_stage):
            what = f"num_workers = {self.num_workers}, deepspeed.zero_stage = {self.deepspeed.zero_stage}"
            raise ValueError(f"executor: local is one process, but {what}; write ray or deepspeed, or 1 and 0")
        return self


def _refuse_null(value: Any) -> Any:
    if value is None:
        raise ValueError("null; leave the key out")
    return value


T = TypeVar("T")
#: an optional key: absent, or with a value, never null
OrAbsent = Annotated[T | None, BeforeValidator(_refuse_null)]
Params = TypeVar("Params", bound=BaseModel)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file (1e-5 is a number, `no` a string, a duplicate key or an alias an error)."""
    if not path.is_file():
        raise InputError(path, "no such file", "run from the repository's root, or restore it with git checkout")
    if path.stat().st_size > 1_000_000:
        raise InputError(path, f"{path.stat().st_size} bytes, above the limit of 1 MB")
    try:
        text = path.read_bytes().decode("utf-8")
        value = parse_yaml(text)
    except UnicodeDecodeError as error:
        raise InputError(path, f"not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        problem = (error.problem or "not valid YAML").split("\n")[0]
        raise InputError(f"{path}{line}", problem, "see https://yaml.org/spec/1.2.2") from error
    except (YAMLError, ValueError) as error:  # a control character, an impossible date
        raise InputError(path, f"not valid YAML ({error})", "restore the file") from error
    if not isinstance(value, dict):
        raise InputError(path, f"holds {type(value).__name__}, not a mapping of sections")
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML 1.2 text; YAMLError or ValueError for what is none, an alias, a number that other readers of
    YAML take for another, or values in values more than _DEPTH deep, on which a reader spends minutes."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        problem = f"more than {_DEPTH} brackets or indentations deep" if depth > _DEPTH else ""
        if isinstance(event, AliasEvent):  # a few of them can stand for more values than memory holds
            problem = f"alias *{event.anchor}, write its value out"
        elif isinstance(event, ScalarEvent) and event.implicit[0] and _TRAP.fullmatch(event.value):
            number = YAML(typ="safe", pure=True).load(event.value)
            problem = f'{event.value} is not one number to all readers of YAML, write {number}, or "{event.value}"'
        if problem:
            raise ComposerError(problem=problem, problem_mark=event.start_mark)
    return YAML(typ="safe", pure=True).load(text)


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """`, did you mean X?` for the closest known name, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def read_params(model: type[Params], path: Path = PARAMS_FILE) -> Params:
    """Read the sections that `model` has as fields, and as they stand the others where it allows extra ones.

    Everything wrong is one InputError with a line per mistake.
    """
    return validated(model, load_yaml(path), path)


def validated(model: type[Params], values: dict[str, Any], path: Path) -> Params:
    """What `read_params` gives, from the values that were read from `path`."""
    for key in values:
        if key not in SECTIONS:
            raise InputError(f"{path}{_line(path, (key,))}", f"unknown section {key!r}", nearest(str(key), SECTIONS))
    for key_path, value in _texts(values):
        if "${" in value:
            what = f"{'.'.join(map(str, key_path))} = {reprlib.repr(value)} has a placeholder, and none is filled in"
            raise InputError(f"{path}{_line(path, key_path)}", what, "write the value itself")
    try:
        read = values if model.model_config.get("extra") == "allow" else model.model_fields
        found = model.model_validate({key: value for key, value in values.items() if key in read})
    except ValidationError as error:
        lines = [_explain(path, model, dict(item)) for item in error.errors(include_url=False)]
        raise InputError(path, f"{len(lines)} mistake(s)\n  " + "\n  ".join(lines)) from None
    world_size = os.environ.get("WORLD_SIZE", "1")
    if "compute" in model.model_fields and world_size != "1":
        what = f"WORLD_SIZE = {world_size} in the environment, {os.cpu_count()} CPUs here: a stage is one process"
        remedy = "start it without torchrun or accelerate (compute.executor starts workers), or unset WORLD_SIZE"
        raise InputError(f"{path}{_line(path, ('compute',))}: compute", what, remedy)
    return found


def _texts(node: Any, location: tuple[Any, ...] = ()) -> typing.Iterator[tuple[tuple[Any, ...], str]]:
    """Every text in a document with its place."""
    if isinstance(node, str):
        yield location, node
    elif isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _texts(value, (*location, key))


def _explain(path: Path, model: type[BaseModel], error: dict[str, Any]) -> str:
    location = tuple(error["loc"])
    key = ".".join(str(part) for part in _in_file(load_yaml(path), location, error["type"]))
    where = f"{path}{_line(path, location)}: {key}" if key else str(path)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key, {nearest(str(location[-1]), _fields_at(model, location[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: missing; add it (presets/ holds complete files)"
    if error["type"] == "union_tag_not_found":
        return f"{where}: has no key 'kind'; add it (presets/ holds complete files)"
    if error["type"] == "union_tag_invalid":
        tag, tags = error["ctx"]["tag"], error["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{where}.kind = {tag!r}: no such kind, {nearest(tag, tags)}"
    value = "" if isinstance(error["input"], dict) else f" = {reprlib.repr(error['input'])}"
    return f"{where}{value}: {error['msg'].removeprefix('Value error, ')}"


def _in_file(node: Any, location: tuple[Any, ...], kind: str) -> list[Any]:
    """`location` without what pydantic adds to it (tags of unions, validators); a missing key itself stays."""
    found = []
    for number, part in enumerate(location):
        if (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int)):
            found.append(part)
            node = node[part]
        elif kind == "missing" and number + 1 == len(location):
            found.append(part)
    return found


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    models = [model]
    for part in location:
        if part in model.model_fields:
            inner = model.model_fields[part].annotation
            candidates = [inner, *typing.get_args(inner)]
            models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
            if not models:
                return []
            model = models[0]
        else:  # no key of the file: a list index, or the tag of one of several models
            model = next((c for c in models if _has_tag(c, part)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _has_tag(model: type[BaseModel], tag: object) -> bool:
    return "kind" in model.model_fields and tag in typing.get_args(model.model_fields["kind"].annotation)


def _line(path: Path, location: tuple[Any, ...]) -> str:
    """` line N` of the deepest part of `location` that stands in the file."""
    node, line = YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8")), 0
    for part in location:
        if isinstance(node, CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
            node = node[part]
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line = node.lc.item(part)[0] + 1
            node = node[part]
    return f" line {line}" if line else ""
