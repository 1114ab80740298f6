import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from triplex.rewards.adapters import Portable
from triplex.rewards.server import RewardServer
from triplex.runs.errors import InputError

TOKEN = "0123456789-abcdef_X"


class Lengths(Portable):
    """The number of a completion's characters; refuses the word `refuse`, breaks at `break`."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.batches: list[list[str]] = []

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        self.batches.append(list(completions))
        for text in completions:
            if text == "refuse":
                raise InputError("row 0", "refused", "say something else")
            if text == "break":
                raise RuntimeError("it broke")
        columns["log_extra"]("label", [float(label) for label in columns["reference"]])
        return [float(len(text)) for text in completions]


@pytest.fixture
def reward(tiny_tokenizer: Any) -> Lengths:
    return Lengths(tiny_tokenizer)


@contextmanager
def running(reward: Portable, max_batch_size: int = 4, max_wait_ms: float = 0) -> Iterator[RewardServer]:
    server = RewardServer(reward, port=0, max_batch_size=max_batch_size, max_wait_ms=max_wait_ms, token=TOKEN)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """(status, answer)."""
    try:
        with urlopen(Request(url, data=body, headers={"Content-Type": "application/json"}), timeout=30) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def asked(*texts: str) -> bytes:
    """The body of a request for these completions of the prompt `p`; their labels are 0, 1, 2, ..."""
    queries = [f"p{text}<|endoftext|>" for text in texts]
    return json.dumps({"query": queries, "prompts": ["p"] * len(texts), "labels": list(range(len(texts)))}).encode()


def test_answer_is_openrlhfs_as_lists(reward: Lengths) -> None:
    with running(reward) as server:
        assert post(server.url, asked("a", "bcd")) == (
            200,
            {"rewards": [1.0, 3.0], "scores": [1.0, 3.0], "extra_logs": {"label": [0.0, 1.0]}},
        )


def test_closing_ends_the_scoring_thread(reward: Lengths) -> None:
    with running(reward):
        assert "reward" in {thread.name for thread in threading.enumerate()}
    assert "reward" not in {thread.name for thread in threading.enumerate()}


def test_requests_that_come_together_are_one_batch_and_each_gets_its_own_rows(reward: Lengths) -> None:
    texts = ["a", "bb", "ccc", "dddd"]
    with running(reward, max_batch_size=8, max_wait_ms=60_000) as server, ThreadPoolExecutor(4) as clients:
        found = list(clients.map(lambda text: post(server.url, asked(text, text + "!")), texts))
    assert [answer["rewards"] for _, answer in found] == [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [4.0, 5.0]]
    assert [answer["extra_logs"]["label"] for _, answer in found] == [[0.0, 1.0]] * 4
    (batch,) = reward.batches  # it did not wait for the minute, since it was full
    assert sorted(batch) == sorted([*texts, *(text + "!" for text in texts)])


def test_a_lone_request_waits_no_longer_than_it_was_told(reward: Lengths) -> None:
    with running(reward, max_batch_size=8, max_wait_ms=300) as server:
        start = time.monotonic()
        assert post(server.url, asked("a"))[0] == 200
        assert 0.3 <= time.monotonic() - start < 5


def test_batches_hold_no_more_than_they_may(reward: Lengths) -> None:
    with running(reward, max_batch_size=3, max_wait_ms=200) as server, ThreadPoolExecutor(7) as clients:
        found = list(clients.map(lambda i: post(server.url, asked("x" * i)), range(1, 8)))
    assert [answer["rewards"] for _, answer in found] == [[float(i)] for i in range(1, 8)]
    assert max(map(len, reward.batches)) <= 3 < len([text for batch in reward.batches for text in batch])


def test_what_is_refused_or_breaks_is_told_to_who_asked_alone(
    reward: Lengths, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["a", "refuse", "break", "dddd"]
    with running(reward, max_batch_size=4, max_wait_ms=60_000) as server, ThreadPoolExecutor(4) as clients:
        found = dict(zip(texts, clients.map(lambda text: post(server.url, asked(text)), texts), strict=True))
        later = post(server.url, asked("x", "x", "x", "x"))
    assert found["a"][1]["rewards"] == [1.0]
    assert found["dddd"][1]["rewards"] == [4.0]
    assert found["refuse"] == (422, {"error": "row 0: refused\n  remedy: say something else"})
    assert found["break"] == (500, {"error": "RuntimeError: it broke"})
    assert later[1]["rewards"] == [1.0] * 4
    log = capsys.readouterr().err
    assert "row 0: refused" in log
    assert "RuntimeError: it broke" in log
    assert TOKEN not in log


def test_query_that_does_not_begin_with_its_prompt_is_422(reward: Lengths) -> None:
    with running(reward) as server:
        status, answer = post(server.url, json.dumps({"query": ["q"], "prompts": ["p"], "labels": [""]}).encode())
    assert status == 422
    assert answer["error"].startswith("row 0: the query 'q' does not begin with its prompt 'p'")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"{\xe9}", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b"[]", "must be a JSON object with the lists query, prompts, labels"),
        (b'{"query": ["a"], "prompts": ["a"]}', "must be a JSON object with the lists"),
        (b'{"query": "a", "prompts": "a", "labels": "a"}', "must be a JSON object with the lists"),
        (b'{"query": ["a"], "prompts": ["a", "b"], "labels": ["a"]}', "1 query, 2 prompts and 1 labels"),
        (b'{"query": [], "prompts": [], "labels": []}', "0 query, 0 prompts and 0 labels"),
        (b'{"query": [1], "prompts": ["a"], "labels": [1]}', "must hold texts alone"),
    ],
    ids=["nothing", "cut", "bytes", "deep", "list", "key", "text", "number", "empty", "type"],
)
def test_bad_body_is_400_in_words(reward: Lengths, body: bytes, words: str) -> None:
    with running(reward) as server:
        status, answer = post(server.url, body)
        assert status == 400
        assert words in answer["error"]
        assert post(server.url, asked("a"))[0] == 200
    assert reward.batches == [["a"]]


@pytest.mark.parametrize("path", ["/", "/get_reward", f"/{TOKEN}x", f"/{TOKEN[:-1]}", f"/{TOKEN}/", f"//{TOKEN}?a"])
def test_another_path_than_the_token_is_404(reward: Lengths, path: str) -> None:
    with running(reward) as server:
        assert post(f"http://127.0.0.1:{server.server_port}{path}", asked("a"))[0] == 404
    assert reward.batches == []


def test_body_above_the_limit_is_413_before_it_is_read(reward: Lengths) -> None:
    with running(reward) as server:
        connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
        connection.putrequest("POST", f"/{TOKEN}")
        connection.putheader("Content-Length", str(2**40))
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 413
        assert "above the limit" in json.load(response)["error"]


def test_it_listens_on_the_loopback_address_alone(reward: Lengths) -> None:
    with running(reward) as server:
        assert server.url == f"http://127.0.0.1:{server.server_port}/{TOKEN}"
        socket.create_connection(("127.0.0.1", server.server_port), timeout=5).close()
        with pytest.raises(ConnectionRefusedError):  # Linux has all of 127/8; a server on 0.0.0.0 would answer here
            socket.create_connection(("127.0.0.2", server.server_port), timeout=5)


@pytest.mark.parametrize("token", ["", "short", "a/b" * 10, "with spaces in it, many", "é" * 20])
def test_token_that_is_no_secret_is_refused(reward: Lengths, token: str) -> None:
    with pytest.raises(InputError, match=r"secrets\.token_urlsafe"):
        RewardServer(reward, port=0, max_batch_size=1, max_wait_ms=0, token=token)


def test_port_that_is_taken_is_named(reward: Lengths) -> None:
    with running(reward) as server, pytest.raises(InputError, match=f"port {server.server_port}: .*in use"):
        RewardServer(reward, port=server.server_port, max_batch_size=1, max_wait_ms=0, token=TOKEN)


SERVE = """
import time
from triplex.rewards.adapters import Portable
from triplex.rewards.server import serve

class Letters:  # a tokenizer that takes no seconds to import
    eos_token, eos_token_id, chat_template, all_special_tokens = "<|endoftext|>", 0, None, ["<|endoftext|>"]
    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [ord(letter) for letter in text]}
    def decode(self, ids):
        return "".join(map(chr, ids))

class Slow(Portable):
    tokenizer = Letters()
    def __call__(self, prompts, completions, completion_ids, **columns):
        print("scoring", flush=True)
        time.sleep(0.5)
        return [1.5] * len(completions)

for _ in range(2):
    serve(
        Slow(), port=0, max_batch_size=4, max_wait_ms=0, token="0123456789abcdef",
        ready=lambda url: print(url, flush=True),
    )
    print("stopped", flush=True)
"""


def test_a_signal_lets_the_request_under_way_finish() -> None:
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout
        for number in (signal.SIGTERM, signal.SIGINT):
            url = process.stdout.readline().strip()
            with ThreadPoolExecutor(1) as client:
                answer = client.submit(post, url, asked("a"))
                assert process.stdout.readline() == "scoring\n"
                os.kill(process.pid, number)
                assert answer.result() == (200, {"rewards": [1.5], "scores": [1.5], "extra_logs": {}})
            assert process.stdout.readline() == "stopped\n"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0])), timeout=5)
        assert process.wait(timeout=30) == 0
