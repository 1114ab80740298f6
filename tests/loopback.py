"""Sockets of the tests' process: closed to all but this machine.

An audit hook rather than a patched `socket` class: it sees every socket of Python's and every question to a name
server, cannot be taken off again, and remembers what a library has tried and swallowed.
"""

import ipaddress
import socket
import sys
from typing import Any

#: what was tried since the list was last emptied, in words
ATTEMPTS: list[str] = []
_TO_ADDRESS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_TO_NAME = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


class RefusedError(OSError):
    """A socket was to reach beyond this machine."""


def is_this_machine(host: Any) -> bool:
    """Whether a host, a name or a number, is loopback; None and the empty name are what one listens on."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in _TO_ADDRESS:
        opened, address = arguments
        if opened.family not in (socket.AF_INET, socket.AF_INET6) or address is None:
            return
        host = address[0]
    elif event in _TO_NAME:
        host = arguments[0]
    else:
        return
    if not is_this_machine(host):
        ATTEMPTS.append(f"{event} {host!r}")
        raise RefusedError(f"{event} {host!r}: the tests may not leave this machine")


def close() -> None:
    """Close the sockets of this process, for good."""
    sys.addaudithook(_hook)
