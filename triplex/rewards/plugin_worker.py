"""The process in which a plug-in runs: a guard that lets nothing outlive its owner, and under it the worker.

Run by triplex/rewards/plugin.py as `python -B -P -u plugin_worker.py FILE FUNCTION`. Standard input is one end of a
socket: a JSON line comes in, {"load": source} first, then {"call": keywords} for each batch, and a JSON line goes back,
{"values", "rss_bytes"}, {"raised": traceback} or {"refused", "row"}. Whatever the plug-in prints goes to standard
output and standard error, which carry nothing else. This file imports nothing of the project.
"""

import ctypes
import inspect
import json
import linecache
import os
import reprlib
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

import psutil

LARGEST = 3.4028234663852886e38  # of the numbers of float32, in which rewards are summed
TRACE_CHARACTERS = 4000
_LOOK_EVERY_MS = 100
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Refused(Exception):  # noqa: N818
    """What a plug-in may not do, in words; `row` is the place of the completion in its batch."""

    def __init__(self, what: str, row: int | None = None) -> None:
        self.what, self.row = what, row
        super().__init__(what)


def main(file: str, name: str) -> int:
    """The guard: start the worker in a temporary folder, wait for its end or the owner's, leave nothing behind."""
    owner, guard = os.getppid(), os.getpid()
    _outlast_sigterm()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryDirectory(prefix="triplex-plugin-", ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        os.environ["HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = folder
        worker = os.fork()
        if worker == 0:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == guard:
                _outlast_sigterm()
                serve(file, name)
            os._exit(0)
        code = _watch(worker, owner)
        _end_all()
    return code


def _outlast_sigterm() -> None:
    """Let a SIGTERM of all processes pass by this one, whose owner ends it after a checkpoint; a fork of it ends."""
    mine = os.getpid()
    signal.signal(signal.SIGTERM, lambda *_: None if os.getpid() == mine else os._exit(128 + signal.SIGTERM))


def _watch(worker: int, owner: int) -> int:
    """The worker's exit code, 128 + N after signal N; 0 when the owner has closed the socket or is gone itself."""
    closed = select.poll()
    closed.register(0, 0)  # the end of the connection is always told
    while os.getppid() == owner and not closed.poll(_LOOK_EVERY_MS):
        ended, status = os.waitpid(worker, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
    return 0


def _end_all() -> None:
    """Kill the worker and all that it has started; orphans come to the guard, which adopts them."""
    with suppress(ChildProcessError):  # none is left
        while True:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            os.waitpid(-1, 0)


def serve(file: str, name: str) -> None:
    """The worker: answer line by line until the socket is closed."""
    channel, worker = socket.socket(fileno=os.dup(0)), os.getpid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    function: Callable[..., Any] | None = None
    for line in channel.makefile("rb"):
        request: dict[str, Any] = json.loads(line)
        reply: dict[str, Any] = {}
        try:
            if function is None:
                function = load(request["load"], file, name)
            else:
                values = function(**request["call"])
                if os.getpid() == worker:
                    reply["values"] = numbers(values, len(request["call"]["completions"]))
        except Refused as error:
            reply = {"refused": error.what, "row": error.row}
        except BaseException as error:  # SystemExit too: it is the plug-in's
            reply = {"raised": _trace(error)}
        if os.getpid() != worker:
            os._exit(0)  # a child that the plug-in forked has come back from the call
        reply["rss_bytes"] = psutil.Process().memory_info().rss
        channel.sendall(json.dumps(reply).encode() + b"\n")


def load(source: str, file: str, name: str) -> Callable[..., Any]:
    """Run the plug-in's source as a module and return its function; Refused without one of TRL's signature."""
    module = ModuleType("plugin")
    module.__file__, sys.modules["plugin"] = file, module
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
    exec(compile(source, file, "exec"), module.__dict__)  # noqa: S102  (params.yaml lists it with its hash)
    function = getattr(module, name, None)
    if not callable(function):
        defined = sorted(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise Refused(f"has no function {name!r}; it defines {', '.join(defined) or 'none'}")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise Refused(f"{name} is a coroutine or a generator, not a plain function")
    signature = inspect.signature(function)
    try:
        signature.bind(**dict.fromkeys(("prompts", "completions", "completion_ids", "reference", "another_column")))
    except TypeError as error:
        raise Refused(f"{name}{signature} cannot be called as a reward ({error})") from error
    return function


def numbers(values: Any, num_completions: int) -> list[float | None]:
    """One float or None a completion from a list, a tuple, or a tensor or array of any type on any device."""
    found = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(found, list | tuple):
        raise Refused(f"returned {type(values).__name__}, not one number a completion")
    if len(found) != num_completions:
        raise Refused(f"returned {len(found)} values for {num_completions} completions")
    return [_number(value, row) for row, value in enumerate(found)]


def _number(value: Any, row: int) -> float | None:
    """True and False are 1 and 0, as everywhere in Python."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    if plain is None:
        return None
    if not isinstance(plain, int | float) or not abs(plain) <= LARGEST:
        raise Refused(f"returned {reprlib.repr(plain)}", row)
    return float(plain)


def _trace(error: BaseException) -> str:
    """The traceback from the plug-in's first line on."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename == __file__:
        place = place.tb_next
    return "".join(traceback.format_exception(type(error), error, place)).strip()[-TRACE_CHARACTERS:]


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
