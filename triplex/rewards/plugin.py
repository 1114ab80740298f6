"""A user's Python function as a part of the reward, in a process of its own from which nothing leaks into training."""

import hashlib
import json
import math
import random
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import Field, field_validator

from triplex.rewards.calibration import Samples
from triplex.rewards.contract import PartConfig
from triplex.rewards.plugin_process import PluginProcess
from triplex.runs.errors import InputError
from triplex.runs.params import OrAbsent, described

FOLDER = "plugins"
BUILT_IN = ("sentiment", "repetition", "length", "perplexity", "preference")
LOAD_SECONDS = 120.0  # to import what the plug-in imports
GROWTH_BYTES = 16 * 2**20
TOLERANCE, NUM_CHECKED = 1e-4, 64
_OF_TRL = ("trainer_state", "environments")  # objects that TRL adds to the columns of the data set


class PluginConfig(PartConfig):
    """An entry of `reward.plugins:` one function of one file, whose hash is a parameter: no change goes unseen."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="by which the part is logged")
    path: str = Field(description="plugins/NAME.py")
    function: str = Field(description="in that file, with TRL's signature")
    sha256: OrAbsent[str] = Field(default=None, description="what the file must hash to; the error without it tells it")
    timeout_s: float = described("seconds for one call on a batch", unit="seconds", gt=0)

    @field_validator("path")
    @classmethod
    def _inside_the_folder(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if parts[:1] != (FOLDER,) or ".." in parts or not path.endswith(".py"):
            raise ValueError(f"must be {FOLDER}/NAME.py, the folder that DVC watches")
        return path

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, function: str) -> str:
        if not function.isidentifier() or iskeyword(function):
            raise ValueError("is no name of a Python function")
        return function


def check_names(plugins: Sequence[PluginConfig]) -> None:
    """ValueError when two parts of the reward would have one name; case does not tell files apart everywhere."""
    taken = {name: "a part that the reward already has" for name in BUILT_IN}
    for plugin in plugins:
        name = plugin.name.casefold()
        if name in taken:
            raise ValueError(f"plug-in name {plugin.name!r} belongs to {taken[name]}; take another")
        taken[name] = f"the plug-in of {plugin.path}"


def plugin_file(config: PluginConfig, project: Path = Path(".")) -> Path:
    """The plug-in's file in the project; InputError when it is missing or a link leads out of plugins/."""
    file, folder = project / config.path, project.resolve() / FOLDER
    if not file.is_file():
        raise InputError(_where(config), f"{config.path} is no file", "write it, or mend the path in params.yaml")
    if not file.resolve().is_relative_to(folder):
        raise InputError(
            _where(config), f"{config.path} is a link to {file.resolve()}", f"put the file itself into {FOLDER}/"
        )
    return file


def read_source(config: PluginConfig, file: Path) -> str:
    """The file's text; InputError unless it hashes to `sha256`, which tells the hash to write."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(_where(config), f"{file} cannot be read ({error.strerror})", "restore the file") from error
    found = hashlib.sha256(content).hexdigest()
    if config.sha256 is None:
        what = "no sha256 is given, so that a change of the file would go unnoticed"
        raise InputError(_where(config), what, f"read {file}, then add to its entry in params.yaml: sha256: {found}")
    if config.sha256 != found:
        what = f"SHA-256 of {file} is not {config.sha256}"
        raise InputError(_where(config), what, f"restore the file, or read and accept it: sha256: {found}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(_where(config), f"{file} is not UTF-8 at byte {error.start}", "save it as UTF-8") from error


class PluginReward:
    """The function as a reward; it starts its worker at once and ends it by `close`, `with`, or with this process.

    The checked text itself is what the worker runs: the file is not read a second time. Lists as long as the batch are
    taken for columns; callables (TRL's `log_extra`) and TRL's own objects are not passed on.
    """

    def __init__(self, config: PluginConfig, file: Path) -> None:
        self.config, self.__name__ = config, config.name
        source = read_source(config, file)
        self._process, self._memory = PluginProcess(file, config.function), _Memory()
        self._lock = threading.Lock()
        try:
            reply = self._ask(json.dumps({"load": source}), LOAD_SECONDS)
            if "raised" in reply:
                remedy = f"mend {config.path}, and its sha256 in params.yaml"
                raise self._error("cannot be imported", reply["raised"], remedy)
            self._refuse(reply, [])
        except BaseException:
            self.close()
            raise

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        """One finite number or None a completion; InputError naming plug-in and sample for all else."""
        passed = {name: value for name, value in columns.items() if not callable(value) and name not in _OF_TRL}
        batch = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **passed}
        with self._lock:
            reply = self._ask(self._line(batch), self.config.timeout_s)
            if "raised" in reply:
                raise self._find_the_sample(batch, reply["raised"])
            self._refuse(reply, completions)
            if growth := self._memory.growth(reply["rss_bytes"]):
                print(f"warning: {_where(self.config)}: {growth}", file=sys.stderr, flush=True)
        return reply["values"]

    def close(self) -> None:
        """End the worker and all that the plug-in has started."""
        self._process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, batch: Mapping[str, Any]) -> str:
        columns = []
        for name, value in batch.items():
            try:
                columns.append(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}")
            except (TypeError, ValueError) as error:
                remedy = "give the data set columns of text, numbers, lists and mappings"
                raise InputError(_where(self.config), f"column {name!r} is no JSON ({error})", remedy) from error
        return '{"call": {' + ", ".join(columns) + "}}"

    def _ask(self, line: str, seconds: float) -> dict[str, Any]:
        try:
            return self._process.ask(line, seconds)
        except TimeoutError as error:
            what = f"took longer than {seconds:g} s and was ended"
            raise self._error(what, remedy="make it faster, or raise its timeout_s") from error
        except (EOFError, OSError) as error:
            what = f"its process has ended, exit code {self._process.end()}"
            raise self._error(what, remedy="look for os._exit, a crash in C code, or too little memory") from error

    def _find_the_sample(self, batch: Mapping[str, Any], trace: str) -> InputError:
        """The error of the first sample that fails alone; that of the batch where none does."""
        num = len(batch["completions"])
        deadline = time.monotonic() + self.config.timeout_s
        for row, text in enumerate(batch["completions"]):
            if time.monotonic() > deadline:
                break
            one = {
                name: value[row : row + 1] if isinstance(value, list | tuple) and len(value) == num else value
                for name, value in batch.items()
            }
            reply = self._ask(self._line(one), self.config.timeout_s)
            if "raised" in reply:
                remedy = "let it give each completion a number or None, an empty one too"
                return self._error(f"fails for {_shown(row, text)}", reply["raised"], remedy)
        what = f"fails for a batch of {num}, and for no completion alone that was tried"
        return self._error(what, trace, "let it take batches of any size")

    def _refuse(self, reply: Mapping[str, Any], completions: Sequence[Any]) -> None:
        if "refused" in reply:
            row = reply["row"]
            what = reply["refused"] + (f" for {_shown(row, completions[row])}" if row is not None else "")
            signature = f"def {self.config.function}(prompts, completions, completion_ids, **columns)"
            remedy = f"write {signature}, one finite number a completion, or None where it does not apply"
            raise self._error(what, remedy=remedy)

    def _error(self, what: str, trace: str = "", remedy: str = "") -> InputError:
        shown = [what, *trace.splitlines()]
        if self._process.output:
            shown += ["it printed:", *self._process.output.decode(errors="replace").splitlines()]
        return InputError(_where(self.config), "\n  ".join(shown), remedy)


class _Memory:
    """Whether a process keeps growing: at calls 2, 4, 8 and so on, by more than GROWTH_BYTES twice in a row."""

    def __init__(self) -> None:
        self.num_calls = 0
        self.sizes: list[int] = []

    def growth(self, rss_bytes: int) -> str:
        """The figures in words when it keeps growing at this call, else nothing."""
        self.num_calls += 1
        if self.num_calls == 1 or self.num_calls & (self.num_calls - 1):
            return ""
        self.sizes = [*self.sizes, rss_bytes][-3:]
        if len(self.sizes) < 3 or min(self.sizes[1] - self.sizes[0], self.sizes[2] - self.sizes[1]) <= GROWTH_BYTES:
            return ""
        places = (self.num_calls // 4, self.num_calls // 2, self.num_calls)
        figures = (f"{size / 2**20:.0f} MiB after call {call}" for size, call in zip(self.sizes, places, strict=True))
        return f"its memory keeps growing: {', '.join(figures)}"


def check_plugin(reward: PluginReward, samples: Samples) -> None:
    """InputError unless a completion's value is the same again, in another order and alone.

    The same batch again must give the same bits. In other batches TOLERANCE is left to sums of another shape. The
    first NUM_CHECKED samples are tried, and with them the empty completion, which any policy may write some day.
    """
    lists: dict[str, list[Any]] = {
        "prompts": samples.prompts,
        "completions": samples.completions,
        "completion_ids": samples.completion_ids,
        **samples.columns,
    }
    empty = {name: values[0] for name, values in lists.items()}
    empty |= {"completions": "", "completion_ids": samples.completion_ids[0][-1:]}
    lists = {name: [*values[:NUM_CHECKED], empty[name]] for name, values in lists.items()}

    def score(rows: Sequence[int]) -> list[float | None]:
        return reward(**{name: [values[row] for row in rows] for name, values in lists.items()})

    num = len(lists["completions"])
    order = random.Random(0).sample(range(num), num)
    first, again = score(range(num)), score(range(num))
    shuffled = dict(zip(order, score(order), strict=True))
    for row, (value, text) in enumerate(zip(first, lists["completions"], strict=True)):
        alone = score([row])[0]
        for found, where, same in (
            (again[row], "in the same batch scored again", again[row] == value),
            (shuffled[row], "in the batch in another order", _close(shuffled[row], value)),
            (alone, "alone", _close(alone, value)),
        ):
            if not same:
                what = f"{_shown(row, text)} gets {value}, and {where} {found}"
                remedy = "let each value depend on its own prompt, completion and columns only; seed what is drawn"
                raise InputError(_where(reward.config), what, remedy)


def _close(a: float | None, b: float | None) -> bool:
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _where(config: PluginConfig) -> str:
    return f"reward.plugins {config.name}"


def _shown(row: int, text: Any) -> str:
    return f"completion {row}: {text[:80]!r}"
