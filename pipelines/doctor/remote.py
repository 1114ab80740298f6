"""DVC's remotes: named but not defined, or not to be reached. Work goes on without them."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.doctor.finding import Finding

CONNECT_SECONDS, LIST_SECONDS = 3.0, 60.0
_PORTS = {"http": 80, "https": 443, "webdav": 80, "webdavs": 443, "ssh": 22}
_HOSTS = {"s3": "s3.amazonaws.com", "gs": "storage.googleapis.com"}  # where the URL names a bucket, not a machine


def unreachable_remotes() -> Iterator[Finding]:
    """Remotes that `dvc push` and `dvc pull` would fail with."""
    default = _config()["core"].get("remote")
    if default and default not in remotes():
        yield Finding(
            "missing remote", f"core.remote = {default}", "not defined: `dvc push` and `dvc pull` fail; all else works",
            f"dvc remote add {default} URL, or dvc config --unset core.remote", warning=True,
        )  # fmt: skip
    for name, url in remotes().items():
        if wrong := _unreachable(name, url):
            yield Finding(
                "unreachable remote", f"{name}: {url}", f"{wrong}; `dvc push` and `dvc pull` fail, all else works",
                "look at the network, the URL and the credentials", warning=True,
            )  # fmt: skip


def remotes() -> dict[str, str]:
    """The URL of each remote in DVC's configuration, by its name."""
    return {name: settings["url"] for name, settings in _config()["remote"].items()}


def _config() -> dict[str, dict[str, dict[str, str]]]:
    from dvc.config import Config

    return Config(str(Path(".dvc").absolute()))


def _unreachable(name: str, url: str) -> str | None:
    """Why a remote does not answer: its machine at once, what it says of the folder within a minute."""
    if "://" not in url:
        return None if Path(url).is_dir() else "no such folder"
    endpoint = urlsplit(_config()["remote"][name].get("endpointurl", url))
    host = endpoint.hostname if endpoint.scheme in _PORTS else _HOSTS.get(endpoint.scheme)
    if host is not None:
        try:
            socket.create_connection((host, endpoint.port or _PORTS.get(endpoint.scheme, 443)), CONNECT_SECONDS).close()
        except OSError as error:
            return f"{host}: {error}"
    command = [sys.executable, "-m", "dvc", "ls-url", f"remote://{name}/"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIST_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {LIST_SECONDS:.0f} s"
    # a folder that nothing was pushed to yet is not there
    told = done.stderr.strip().partition("\n")[0].removeprefix("ERROR: ")
    return told if done.returncode and "does not exist" not in told else None
