"""What ends a run, told so that the user can mend it, and the exit code of each."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum


class Exit(IntEnum):
    """What a command of Triplex ends with; above 128 it is 128 + the signal, as in a shell."""

    DONE = 0
    FAILED = 1  # an error of ours, with its traceback; a stage of the flow that failed; a check that says no
    BAD_INPUT = 2  # the user's mistake, named with its remedy
    NO_MEMORY = 71
    NO_SPACE = 74  # the disk is full
    BUSY = 75  # somebody else holds the lock: later it may work
    CTRL_C = 130
    KILLED = 137  # by the kernel for want of memory, or by hand
    TERMINATED = 143


class InputError(ValueError):
    """A mistake in a parameter, a file or a model folder: `where: what; remedy`.

    Stages and the command line print the message without a traceback and exit with `code`.
    """

    code = Exit.BAD_INPUT

    def __init__(self, where: object, what: str, remedy: str = "") -> None:
        self.where, self.what, self.remedy = str(where), what, remedy
        super().__init__(self.where, what, remedy)  # so that it passes from process to process

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"\n  remedy: {self.remedy}" if self.remedy else "")


class BusyError(InputError):
    """What is asked for runs already."""

    code = Exit.BUSY


class DiskFullError(InputError):
    """A file or folder that the disk has no room for."""

    code = Exit.NO_SPACE


class OutOfMemoryError(InputError):
    """Work that this machine's memory, or its accelerator's, is too small for."""

    code = Exit.NO_MEMORY


@contextmanager
def errors_in_words() -> Iterator[None]:
    """End the process with the message of an InputError and its exit code instead of a traceback.

    A full disk and memory that is used up are told likewise, wherever they show; every other error is ours.
    """
    try:
        yield
    except InputError as error:
        _end(error)
    except MemoryError as error:
        what = f"used up: {error}" if str(error) else "used up"
        _end(OutOfMemoryError("memory", what, "take smaller batches or a smaller model, or end other work"))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _end(DiskFullError(error.filename or "a file", "no space left on the disk", "make room and start again"))


def _end(error: InputError) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(error.code)
