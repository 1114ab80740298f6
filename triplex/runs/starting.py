"""Until a stage listens to signals itself: one that comes while its libraries are imported ends it in a line.

Only where the stage is what was started; who imports its module keeps his own handlers.
"""

import os
import signal
import sys
from types import FrameType


def _end(number: int, _: FrameType | None) -> None:
    os.write(2, b"stopped before it had begun\n")
    os._exit(128 + number)


_started = getattr(sys.modules["__main__"], "__spec__", None)
if _started is not None and _started.name.startswith("stages."):
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _end)
