"""A reward behind HTTP on this machine, which scores the single requests of OpenRLHF's rollouts as batches."""

import hmac
import json
import queue
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from triplex.rewards.adapters import OpenRLHFReward, Portable
from triplex.runs.errors import InputError

_MAX_BODY_BYTES = 16 * 2**20
_SOCKET_TIMEOUT_S = 10  # of a client that connects and sends nothing
_KEYS = ("query", "prompts", "labels")  # of OpenRLHF's request


class Request(NamedTuple):
    """B responses to be scored, and where the answer goes."""

    rows: tuple[list[str], list[str], list[Any]]  # queries, prompts, labels
    answer: "Future[dict[str, Any]]"

    @property
    def size(self) -> int:
        """B."""
        return len(self.rows[0])


class Batcher:
    """One thread that scores the requests which arrive within `max_wait_ms` of the first as one batch.

    A batch takes requests until it holds `max_batch_size` responses; a request is never split. The numbers are those
    of a call of its own to 1e-5: a model's last bits depend on the batch.
    """

    def __init__(self, reward: OpenRLHFReward, max_batch_size: int, max_wait_ms: float) -> None:
        self._reward, self._max_batch_size, self._max_wait_s = reward, max_batch_size, max_wait_ms / 1000
        self._requests: queue.Queue[Request | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="reward", daemon=True)
        self._thread.start()

    def score(self, queries: list[str], prompts: list[str], labels: list[Any]) -> dict[str, Any]:
        """OpenRLHF's answer as JSON values; raises what the reward raises for these responses."""
        request = Request((queries, prompts, labels), Future())
        self._requests.put(request)
        return request.answer.result()

    def close(self) -> None:
        """Score what is waiting, then end the thread."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[Request]:
        """The requests to be scored together; none after `close`."""
        batch: list[Request] = []
        end = None
        while sum(request.size for request in batch) < self._max_batch_size:
            try:
                request = self._requests.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if request is None:
                if batch:
                    self._requests.put(None)  # for the next round
                break
            end = end or time.monotonic() + self._max_wait_s
            batch.append(request)
        return batch

    def _answer(self, batch: list[Request]) -> None:
        """Score the batch; where that fails each request alone, so that one's mistake is not another's."""
        queries, prompts, labels = ([value for request in batch for value in request.rows[i]] for i in range(3))
        try:
            found = self._reward(queries, prompts, labels)
        except Exception as error:  # given to the request that caused it
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:
                for request in batch:
                    self._answer([request])
            return
        start = 0
        for request in batch:
            request.answer.set_result(_json_values(found, slice(start, start + request.size)))
            start += request.size


class RewardServer(ThreadingHTTPServer):
    """POST `{"query": [...], "prompts": [...], "labels": [...]}` to `url`; the answer is OpenRLHF's, as lists.

    It listens on 127.0.0.1 alone, and the secret `token` is the path, since OpenRLHF's client sends no headers. Answers
    that are no reward are `{"error": words}`: 400 for a body that is not such a request, 404 for another path, 413 for
    a body above 16 MiB, 422 for responses that the reward refuses, 500 for a reward that breaks.
    """

    daemon_threads = False  # so that closing waits for the answers under way
    request_queue_size = 128  # connections that wait to be accepted: a rollout asks for all its answers at once

    def __init__(self, reward: Portable, *, port: int, max_batch_size: int, max_wait_ms: float, token: str) -> None:
        """`port` 0 takes a free one. InputError for a token that could be guessed and for a port that is taken."""
        if not re.fullmatch(r"[\w-]{16,}", token, re.ASCII):
            raise InputError(
                "token",
                f"{len(token)} characters, or others than letters, digits, - and _",
                "take 16 or more that nobody can guess, say secrets.token_urlsafe()",
            )
        self.path = f"/{token}"
        self.batcher = Batcher(reward.as_openrlhf(), max_batch_size, max_wait_ms)
        try:
            super().__init__(("127.0.0.1", port), _Handler)  # closes what it has opened when it fails
        except OSError as error:
            raise InputError(f"port {port}", error.strerror or str(error), "give a free one, or 0 for any") from error

    @property
    def url(self) -> str:
        """What to give to OpenRLHF as `--reward.remote_url`."""
        return f"http://127.0.0.1:{self.server_port}{self.path}"

    def server_close(self) -> None:
        """Answer what has been asked, then let go of the port."""
        super().server_close()
        self.batcher.close()


def serve(
    reward: Portable,
    *,
    port: int,
    max_batch_size: int,
    max_wait_ms: float,
    token: str,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, which let the requests under way finish; a second one ends it at once.

    To be called in the main thread. `ready` is called with the URL. `max_wait_ms` is what a lone request waits for
    company.
    """
    with RewardServer(reward, port=port, max_batch_size=max_batch_size, max_wait_ms=max_wait_ms, token=token) as server:

        def stop(*_: object) -> None:  # an exception here would close a connection that has just been accepted
            threading.Thread(target=server.shutdown, daemon=True).start()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            if ready:
                ready(server.url)
            server.serve_forever()
            print("the reward server stops", file=sys.stderr)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: RewardServer
    timeout = _SOCKET_TIMEOUT_S

    def do_POST(self) -> None:
        if not hmac.compare_digest(self.path.encode(), self.server.path.encode()):
            return self._send(404, {"error": "no such path: the token is wrong"})
        try:
            length = int(self.headers.get("Content-Length", "0"))
            if length > _MAX_BODY_BYTES:
                return self._send(413, {"error": f"{length} bytes, above the limit of {_MAX_BODY_BYTES}"})
            rows = _read_rows(self.rfile.read(max(0, length)))
        except (ValueError, RecursionError) as error:  # no JSON, or brackets without end
            return self._send(400, {"error": str(error)})
        try:
            self._send(200, self.server.batcher.score(*rows))
        except InputError as error:
            self._send(422, {"error": str(error)})
        except Exception as error:  # whatever a reward may raise; the server goes on
            traceback.print_exception(error)
            self._send(500, {"error": f"{type(error).__name__}: {error}"})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        if status != 200:
            print(f"reward server: {status} {body['error']}", file=sys.stderr)

    def log_message(self, format: str, *args: Any) -> None:
        """Not the usual line a request: it would write the token into the log."""


def _read_rows(body: bytes) -> tuple[list[str], list[str], list[Any]]:
    """(queries, prompts, labels) of a request's body; ValueError in words for any other."""
    given = json.loads(body)
    if not isinstance(given, dict) or not all(isinstance(given.get(key), list) for key in _KEYS):
        raise ValueError(f"the body must be a JSON object with the lists {', '.join(_KEYS)}")
    queries, prompts, labels = (given[key] for key in _KEYS)
    if not len(queries) == len(prompts) == len(labels) > 0:
        raise ValueError(f"{len(queries)} query, {len(prompts)} prompts and {len(labels)} labels: give as many of each")
    if not all(isinstance(text, str) for text in queries + prompts):
        raise ValueError("query and prompts must hold texts alone")
    return queries, prompts, labels


def _json_values(found: dict[str, Any], rows: slice) -> dict[str, Any]:
    """Some rows of OpenRLHF's answer, tensors as lists."""
    return {
        name: _json_values(value, rows) if isinstance(value, dict) else value[rows].tolist()
        for name, value in found.items()
    }
