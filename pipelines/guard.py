"""A process between the flow and a stage, so that no stage outlives its flow.

The guard leads a session of its own and adopts every orphan below it. Its standard input is a pipe that the flow
holds open: when the flow ends, however it ends, the pipe closes and the guard ends all that it has started.
Run as `python -m pipelines.guard COMMAND...`; exits with the command's code.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO

import psutil

GRACE_SECONDS = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class Guarded:
    """`python -m MODULE ARGUMENTS` under a guard, as the flow sees it; leaving the `with` block ends it."""

    def __init__(self, module: list[str], env: Mapping[str, str], stdout: int | IO[bytes] = subprocess.PIPE) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "pipelines.guard", sys.executable, "-m", *module],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **env},
        )

    def __enter__(self) -> "Guarded":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
        self._guard.wait()
        if self._guard.stdout is not None:
            self._guard.stdout.close()

    def end(self) -> None:
        """Ask the guard to end the command and all that it started; returns at once, from any thread."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()

    def output(self) -> Iterator[bytes]:
        """What the command and its children print, in pieces, until the guard has ended."""
        assert self._guard.stdout is not None
        pipe = self._guard.stdout.fileno()
        while self.running():
            if select.select([pipe], [], [], 0.5)[0]:
                piece = os.read(pipe, 65536)
                if not piece:
                    break
                yield piece
        self._guard.wait()
        end_all(lambda: _session(self._guard.pid))  # nobody is left there, unless the guard itself was killed
        while select.select([pipe], [], [], 0)[0] and (piece := os.read(pipe, 65536)):
            yield piece

    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return self._guard.poll() is None

    def exit_code(self) -> int:
        """The command's exit code, 128 + N after signal N."""
        code = self._guard.wait()
        return code if code >= 0 else 128 - code


def end_all(members: Callable[[], list[psutil.Process]]) -> None:
    """Terminate all `members()`, kill those that are still there after the grace period, return when none is left."""
    for process in members():
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    while remaining := members():
        time.sleep(0.05)
        for process in remaining if time.monotonic() > deadline else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def main(command: list[str]) -> int:
    """Run the command until it ends or the guard is told to end it; then end whatever it left running."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the number arrives through the pipe
    guard = os.getpid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=lambda: _die_with(guard))
    while child.poll() is None:
        ready = select.select([sys.stdin, woken], [], [])[0]
        if sys.stdin in ready:  # nothing is ever written to it: this is its end
            break
        if set(os.read(woken, 512)) != {signal.SIGCHLD}:
            break
    end_all(lambda: _living(psutil.Process().children(recursive=True)))
    code = child.wait()
    return code if code >= 0 else 128 - code


def _die_with(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _session(leader: int) -> list[psutil.Process]:
    def belongs(process: psutil.Process) -> bool:
        with suppress(ProcessLookupError):
            return os.getsid(process.pid) == leader
        return False

    return _living([process for process in psutil.process_iter() if belongs(process)])


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    def lives(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return process.status() != psutil.STATUS_ZOMBIE
        return False

    return [process for process in processes if lives(process)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
