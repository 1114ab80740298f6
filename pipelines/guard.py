"""A process between the flow and a stage, so that no stage outlives its flow.

The guard leads a session of its own and adopts every orphan below it. Its standard input is a pipe that the flow
holds open: when the flow ends, however it ends, the pipe closes and the guard ends all that it has started.
Run as `python -m pipelines.guard COMMAND...`; exits with the command's code.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO

import psutil

from triplex.runs.processes import (
    GRACE_SECONDS,
    STOP_SECONDS,
    adopt_orphans,
    descendants,
    die_with,
    end_all,
    exit_code,
    living,
)

_STOP = b"."


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
        """Ask the guard to end the command and all that it started; returns at once, from any thread.

        They have STOP_SECONDS, for a checkpoint; GRACE_SECONDS when this process ends without having asked.
        """
        assert self._guard.stdin is not None
        with suppress(BrokenPipeError):  # it has ended
            if not self._guard.stdin.closed:
                self._guard.stdin.write(_STOP)
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
        return exit_code(self._guard.wait())


def main(command: list[str]) -> int:
    """Run the command until it ends or the guard is told to end it; then end whatever it left running.

    Told to, it interrupts the command as Ctrl-C would and terminates what the command has started.
    """
    adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the number arrives through the pipe
    guard = os.getpid()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=lambda: die_with(guard))
    grace = GRACE_SECONDS
    while child.poll() is None:
        ready = select.select([sys.stdin, woken], [], [])[0]
        if sys.stdin in ready:  # asked to stop, or this is its end
            grace = STOP_SECONDS if os.read(sys.stdin.fileno(), 1) else GRACE_SECONDS
            break
        if set(os.read(woken, 512)) != {signal.SIGCHLD}:
            grace = STOP_SECONDS
            break
    if child.poll() is None:
        child.send_signal(signal.SIGINT)  # DVC waits for the end of the stage under it, then lets go of its locks
        end_all(lambda: [process for process in descendants() if process.pid != child.pid], grace)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    end_all(descendants, GRACE_SECONDS)
    return exit_code(child.wait())


def _session(leader: int) -> list[psutil.Process]:
    def belongs(process: psutil.Process) -> bool:
        with suppress(ProcessLookupError):
            return os.getsid(process.pid) == leader
        return False

    return living([process for process in psutil.process_iter() if belongs(process)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
