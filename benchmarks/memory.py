"""What a work adds to a process at its peak; Linux only."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h: what is larger goes back when it is freed


def peak_growth(work: Callable[[], Any]) -> int:
    """Bytes that `work` adds to this process at its peak; run it in a process of its own, after something like it.

    Memory that is free goes back to the system before. The allocator is told to give back what is freed at once, so
    that the peak is what is alive then and not what lies about.
    """
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_M_MMAP_THRESHOLD, 65536)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at its peak."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"no {field} in /proc/self/status"
    return 1024 * int(found[1])
