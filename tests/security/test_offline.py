"""Nothing leaves this machine: the tests' own sockets are closed, and stages run where there is no network."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import loopback
from tests.project import copy_of_the_project

ELSEWHERE = "192.0.2.1"  # for documentation: nobody has it
SECRET = f"planted-{secrets.token_hex(8)}"  # drawn, since the copy of the project holds this file too
SECRETS = (
    "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "WANDB_API_KEY", "GITHUB_TOKEN", "MY_PASSWORD",
)  # fmt: skip
NAMESPACE = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
#: brings loopback up, then becomes its arguments
LOOPBACK_UP = """\
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
os.execv(sys.argv[1], sys.argv[1:])
"""
REACH = f"import socket; socket.create_connection(('{ELSEWHERE}', 9), timeout=5)"
REACH_LOOPBACK = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"


def in_namespace(folder: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """`python ARGUMENTS` in a network namespace that has loopback and nothing else."""
    command = [*NAMESPACE, sys.executable, "-c", LOOPBACK_UP, sys.executable, *arguments]
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    full = {**kept, "PATH": path, "PYTHONPATH": str(folder), **env}
    return subprocess.run(command, cwd=folder, env=full, capture_output=True, text=True, timeout=500)


def namespaces_work() -> bool:
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not namespaces_work(), reason="needs the right to make network namespaces")
def test_stages_run_without_a_network_and_write_nothing_of_the_environments_secrets(tmp_path: Path) -> None:
    folder = copy_of_the_project(tmp_path)
    assert in_namespace(folder, "-c", REACH_LOOPBACK).returncode == 0
    assert "Network is unreachable" in in_namespace(folder, "-c", REACH).stderr
    planted = {name: f"{SECRET}-{name}" for name in SECRETS}
    done = in_namespace(folder, "-m", "dvc", "repro", "base", **planted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "models/base/model.safetensors").is_file()
    assert (folder / "reports/manifests/base.json").is_file()
    assert SECRET not in done.stdout + done.stderr
    assert [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.sendto(b"", (ELSEWHERE, 9))


@pytest.mark.parametrize(
    ("reach", "told"),
    [
        (lambda: socket.create_connection((ELSEWHERE, 9), timeout=5), f"socket.getaddrinfo '{ELSEWHERE}'"),
        (lambda: socket.socket().connect((ELSEWHERE, 9)), f"socket.connect '{ELSEWHERE}'"),
        (lambda: socket.socket().connect_ex((ELSEWHERE, 9)), f"socket.connect '{ELSEWHERE}'"),
        (lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 9)), "socket.connect '2001:db8::1'"),
        (lambda: socket.getaddrinfo("example.org", 80), "socket.getaddrinfo 'example.org'"),
        (lambda: socket.gethostbyname("example.org"), "socket.gethostbyname 'example.org'"),
        (send, f"socket.sendto '{ELSEWHERE}'"),
    ],
)
def test_a_socket_that_leaves_is_refused_and_remembered(reach: Callable[[], object], told: str) -> None:
    with pytest.raises(loopback.RefusedError):
        reach()
    assert [told] == loopback.ATTEMPTS
    loopback.ATTEMPTS.clear()


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1])).close()
    one, other = socket.socketpair()
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True), ("127.8.9.10", True), ("::1", True), ("localhost", True), ("", True), (None, True),
        (b"127.0.0.1", True), (ELSEWHERE, False), ("0.0.0.0", False), ("localhost.example.org", False),  # noqa: S104
        ("example.org", False), ("fe80::1%eth0", False), (b"example.org", False),
    ],
)  # fmt: skip
def test_which_hosts_are_this_machine(host: str | bytes | None, here: bool) -> None:
    assert loopback.is_this_machine(host) is here


def test_the_hub_is_closed_to_what_tests_start() -> None:
    code = "from huggingface_hub import constants; print(constants.is_offline_mode())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
