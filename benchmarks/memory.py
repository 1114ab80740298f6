"""What a work adds to a process at its peak; Linux only."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h: what is larger goes back when it is freed


def peak_growth(work: Callable[[], Any]) -> int:
    """Bytes that `work` adds to this process at its peak; run it in a process of its own, after something like it.

    Memory that is free goes back to the system before. What lies about is no part of the peak.
    """
    give_back_what_is_freed()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def give_back_what_is_freed() -> None:
    """From now on at once, so that a process holds what is alive."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_M_MMAP_THRESHOLD, 65536)
    libc.malloc_trim(0)


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at its peak."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"no {field} in /proc/self/status"
    return 1024 * int(found[1])
