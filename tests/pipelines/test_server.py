"""The Prefect server that a run starts: reached from this machine alone, and only with the project's password."""

import base64
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from tests.pipelines.conftest import environment, run_pipelines

#: starts the server as `python -m pipelines run` does, asks it as Prefect's client does, and waits for its input to end
START = """\
import asyncio, os, sys
from pipelines import environment
environment.prepare()
from pipelines.server import start_server
start_server()()
from prefect import get_client

async def count():
    async with get_client() as client:
        return await client.count_flow_runs()

print(os.environ["PREFECT_API_URL"], asyncio.run(count()), flush=True)
sys.stdin.read()
"""
ENVIRONMENT = (
    "import json, os; from pipelines import environment; environment.prepare(); print(json.dumps(dict(os.environ)))"
)


class Server(NamedTuple):
    """A running server, the process that started it, and what it asks for."""

    url: str
    owner: psutil.Process
    password: str
    answered: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("project")
    command = [sys.executable, "-c", START]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url, answered = process.stdout.readline().split()
        password = folder / ".triplex/prefect/password"
        assert stat.S_IMODE(password.stat().st_mode) == 0o600
        assert stat.S_IMODE(password.parent.stat().st_mode) == 0o700
        yield Server(url, psutil.Process(process.pid), password.read_text(), answered)
        process.communicate()


def asked(server: Server, **headers: str) -> int:
    return httpx.post(f"{server.url}/flow_runs/filter", json={}, headers=headers).status_code


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(password.encode()).decode()}"


def test_it_listens_on_loopback_alone(server: Server) -> None:
    port = httpx.URL(server.url).port
    processes = server.owner.children(recursive=True)
    listening = [c.laddr for process in processes for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert port in {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_it_answers_401_without_the_password(server: Server) -> None:
    assert len(server.password.removeprefix("triplex:")) >= 32
    assert asked(server) == 401
    assert asked(server, Authorization=basic("triplex:")) == 401
    assert asked(server, Authorization=basic(server.password[:-1])) == 401
    assert asked(server, Authorization=server.password) == 401
    assert asked(server, Authorization=basic(server.password)) == 200
    assert server.answered == "0"  # runs, as counted by Prefect's own client


def test_other_paths_without_the_password_tell_nothing(server: Server) -> None:
    def get(path: str) -> int:
        return httpx.get(f"{server.url}{path}").status_code

    assert get("/health") == 200
    assert {path: get(path) for path in ("/admin/settings", "/version", "/flows/", "/logs/filter")} == dict.fromkeys(
        ("/admin/settings", "/version", "/flows/", "/logs/filter"), 401
    )


def prepared(folder: Path, **env: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", ENVIRONMENT], cwd=folder, env=environment(**env), capture_output=True, check=True
    )
    return json.loads(done.stdout)


def test_the_password_is_drawn_once_and_shared_by_server_and_clients(tmp_path: Path) -> None:
    first, second = prepared(tmp_path), prepared(tmp_path)
    assert first["PREFECT_SERVER_API_AUTH_STRING"] == first["PREFECT_API_AUTH_STRING"]
    assert first["PREFECT_API_AUTH_STRING"] == second["PREFECT_API_AUTH_STRING"]
    assert first["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert os.listdir(tmp_path / ".triplex/prefect") == ["password"]
    other = tmp_path / "other"
    other.mkdir()
    assert prepared(other)["PREFECT_API_AUTH_STRING"] != first["PREFECT_API_AUTH_STRING"]


def test_processes_that_start_at_once_agree_on_the_password(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENVIRONMENT]
    running = [subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE) for _ in range(4)]
    assert len({json.loads(process.communicate()[0])["PREFECT_API_AUTH_STRING"] for process in running}) == 1


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://127.0.0.1:4200/api", True),
        ("http://localhost:4200/api", True),
        ("http://[::1]:4200/api", True),
        ("https://api.prefect.example/api", False),
        ("http://127.0.0.1.example.org/api", False),
    ],
)
def test_only_a_server_on_this_machine_gets_the_password(tmp_path: Path, url: str, sent: bool) -> None:
    assert ("PREFECT_API_AUTH_STRING" in prepared(tmp_path, PREFECT_API_URL=url)) is sent


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    own = {"PREFECT_SERVER_API_AUTH_STRING": "me:mine", "PREFECT_SERVER_API_HOST": "::1"}
    found = prepared(tmp_path, **own)
    assert found.items() >= own.items()
    assert found["PREFECT_API_AUTH_STRING"] == "me:mine"


def test_a_port_in_use_is_told_in_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_pipelines(tmp_path, "serve", "--port", port)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "  remedy: name another, or end what has it")
