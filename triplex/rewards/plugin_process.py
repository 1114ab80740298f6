"""The owner's end of a plug-in's process: a line out, a line back in time, and an end that leaves nothing running."""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from triplex.rewards import plugin_worker

OUTPUT_BYTES = 2000  # of what the plug-in prints in a call: the last ones
#: all that the plug-in sees of the environment, beside HOME and TMPDIR, which are its working directory
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
SET = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


class PluginProcess:
    """The process of triplex/rewards/plugin_worker.py; it ends with `end`, this object, or the interpreter."""

    def __init__(self, file: Path, function: str) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-B", "-P", "-u", os.path.abspath(plugin_worker.__file__), str(file), function],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=SET | {name: os.environ[name] for name in PASSED_ON if name in os.environ},
            )
        assert self._process.stdout is not None
        self.output, self._printed = b"", self._process.stdout
        self._selector = selectors.DefaultSelector()
        for stream in (self._channel, self._printed):
            self._selector.register(stream, selectors.EVENT_READ)
        self._finalizer = weakref.finalize(self, _end, self._process, self._channel, self._selector)

    def ask(self, line: str, seconds: float) -> dict[str, Any]:
        """The reply to one line. TimeoutError when it is late, EOFError or OSError when the process has ended.

        After an error the process has been ended. `output` holds the last bytes printed since the line was sent.
        """
        if not self._finalizer.alive:
            raise EOFError
        deadline, reply, self.output = time.monotonic() + seconds, bytearray(), b""
        try:
            self._channel.settimeout(seconds)
            self._channel.sendall(line.encode() + b"\n")
            while not reply.endswith(b"\n"):
                reply += self._read(deadline)
        except BaseException:  # a reply that comes after it would be taken for the next one's
            self._keep_output()
            self.end()
            raise
        self._keep_output()
        return json.loads(reply)

    def end(self) -> int:
        """End the process and all that it has started; its exit code, 128 + N after signal N, 0 when ended here."""
        self._finalizer()
        return self._process.returncode

    def _read(self, deadline: float) -> bytes:
        """What has come of the reply, perhaps nothing; a full pipe would stop the plug-in, so it is emptied."""
        left = deadline - time.monotonic()
        ready = {key.fileobj for key, _ in self._selector.select(max(0.0, left))}
        if left <= 0 or not ready:
            raise TimeoutError
        if self._printed in ready:
            self._keep_output()
        if self._channel not in ready:
            return b""
        piece = self._channel.recv(2**16)
        if not piece:
            raise EOFError
        return piece

    def _keep_output(self) -> None:
        """One read takes all that a pipe holds."""
        if any(key.fileobj is self._printed for key, _ in self._selector.select(0)):
            self.output = (self.output + os.read(self._printed.fileno(), 2**20))[-OUTPUT_BYTES:]


def _end(process: subprocess.Popen[bytes], channel: socket.socket, selector: selectors.BaseSelector) -> None:
    """Close the socket, upon which the guard kills all below it and exits."""
    selector.close()
    with suppress(OSError):  # the other end is gone already
        channel.shutdown(socket.SHUT_RDWR)  # closing alone does nothing while a fork of this process holds it
    channel.close()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
