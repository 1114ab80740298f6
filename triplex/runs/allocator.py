"""Memory that a process has freed stays with it: a training step asks for the same sizes again and again."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let glibc's malloc hand freed memory out again instead of returning it to the system; Linux only.

    Else every large tensor is mapped, filled with zeros and unmapped again: a tenth of a small step's time.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
