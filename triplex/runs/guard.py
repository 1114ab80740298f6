"""A process above a stage: passes signals on, ends the stage when DVC is gone, leaves nothing running.

DVC runs a stage's command through a shell. Some shells become the command, others (dash, which is often /bin/sh) stay
between DVC and it, and live on when DVC is killed; so the guard looks after every process up to DVC. The stage leads a
session of its own and is killed by the kernel when its guard is; what it has started comes to the guard, which ends it.
"""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from triplex.runs.errors import Exit
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

_LOOK_SECONDS = 0.25
_LEFTOVERS_SECONDS = 1.0
_STAGE = "DVC_STAGE"  # environment: DVC sets it for a stage's command
_PASSED_ON = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGHUP: signal.SIGTERM}


def guarded(main: Callable[[], None]) -> None:
    """Run `main` in a fork of this process and exit as it does, 128 + N after signal N.

    GRACE_SECONDS after the end of DVC, or of whatever else has started this process, the fork is gone, and has had a
    SIGTERM before. Elsewhere than on Linux, `main` runs in this process, which nobody looks after.
    """
    if sys.platform != "linux":
        main()
        return
    passed_on = {number for number in _PASSED_ON if signal.getsignal(number) != signal.SIG_IGN}  # nohup, `command &`
    starters, guard = _starters(), os.getpid()
    signals = {*passed_on, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # from here on they wait to be asked for
    sys.stdout.flush()
    sys.stderr.flush()
    stage = os.fork()
    if stage == 0:
        os.setsid()
        die_with(guard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        main()
        return
    adopt_orphans()
    status = _watch(stage, starters, signals)
    end_all(descendants, _LEFTOVERS_SECONDS)
    if status < 0:
        hint = ", as by the kernel when memory runs out" if status == -signal.SIGKILL else ""
        by = f"ended by {signal.Signals(-status).name}{hint}"
        print(f"error: {Path(sys.argv[0]).stem}: {by}; run again to go on", file=sys.stderr, flush=True)
    os._exit(exit_code(status))  # without the clean-up that libraries have asked for: that is the fork's


def _watch(stage: int, starters: list[psutil.Process], signals: set[signal.Signals]) -> int:
    """How the stage, which is ended when one of the starters has ended, has ended: its exit code, -N after signal N."""
    end_at, grace = math.inf, GRACE_SECONDS
    while (status := _ended(stage)) is None:
        told = signal.sigtimedwait(signals, _LOOK_SECONDS)
        if told is not None and told.si_signo in _PASSED_ON:  # Python gives any number where EINTR met the time limit
            os.kill(stage, _PASSED_ON[signal.Signals(told.si_signo)])
            grace = STOP_SECONDS
        if end_at == math.inf and len(living(starters)) < len(starters):
            os.kill(stage, signal.SIGTERM)
            end_at = time.monotonic() + grace
        if time.monotonic() > end_at:
            os.kill(stage, signal.SIGKILL)
    return status


def _ended(stage: int) -> int | None:
    """What became of the stage, None while it runs; clears away adopted processes that have ended."""
    while True:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return None
        if process == stage:
            return os.waitstatus_to_exitcode(status)


def _starters() -> list[psutil.Process]:
    """The parent and, below DVC, all up to DVC: when one of them ends, nobody waits for this process any more.

    DVC starts a command in its own process group. Whoever of another group is found up there has inherited the command
    from a DVC that ended while this process was importing; it then exits.
    """
    parents = psutil.Process().parents()
    if _STAGE not in os.environ:
        return parents[:1]
    for count, process in enumerate(parents, 1):
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == os.getpgrp():
                if _STAGE not in process.environ():
                    return parents[:count]
                continue
        break
    sys.exit(Exit.TERMINATED)
