import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from jinja2 import UndefinedError

from triplex.evaluation.comparison import compare
from triplex.evaluation.report import MAX_CHARS, MAX_PROMPTS, render_report

CHROMIUM = Path("/usr/bin/chromium")
ATTACK = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{ 7*7 }}</style></td>"""
PARAMS = {"seed": 17, "compute": {"threads": 2, "precision": "float32"}, "ppo": {"kl": {"coef": 0.05}, "steps": [1, 2]}}
ENVIRONMENT = {"python": "3.11.9", "machine": "x86_64", "system": "Linux", "packages": {"torch": "2.13.0"}}


class Page(HTMLParser):
    """The page's text, elements and the contents of its style and script, as a browser would part them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        self.raw.get(self._inside, self.words).append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return "".join(self.words)


def manifests() -> dict[str, bytes]:
    stages = {"base": {"models/base": "ab" * 32}, "evaluate": {"reports/eval.json": "cd" * 32}}
    return {
        name: json.dumps({"stage": name, "outputs": outputs, "environment": ENVIRONMENT}).encode()
        for name, outputs in stages.items()
    }


@pytest.fixture
def render(finished_run, pictures):
    """The page of the small run, with whatever a test changes in what it is made from."""
    run = finished_run

    def page(**changes) -> str:
        measures = compare(run.evaluation, run.samples, seed=1)
        given = {"evaluation": run.evaluation, "measures": measures, "samples": run.samples, "pictures": pictures}
        return render_report(**(given | {"params": PARAMS, "manifests": manifests()} | changes))

    return page


def with_texts(samples: pa.Table, **texts: str) -> pa.Table:
    return pa.Table.from_pylist([row | texts for row in samples.to_pylist()], schema=samples.schema)


def test_the_page_says_results_numbers_parameters_and_hashes(render):
    page = Page(render())
    assert "PPO beats SFT by 0.31" in page.text
    assert "95 % interval 0.27 to 0.35" in page.text
    assert "within noise" in page.text
    assert "kl.coef" in page.text
    assert "abababababab models/base" in page.text
    assert sha256(manifests()["base"]).hexdigest()[:12] in page.text
    assert "Python 3.11.9 on Linux x86_64; torch 2.13.0" in page.text
    assert "Reproducibility level D1" in page.text
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"].count("PPO: losses") == 1


def test_whatever_comes_from_data_is_text(finished_run, render):
    plain = Page(render())
    samples = with_texts(finished_run.samples, prompt=ATTACK, response=ATTACK)
    stage = {"stage": "x", "outputs": {ATTACK: "ab" * 32}, "environment": ENVIRONMENT | {"machine": ATTACK}}
    changes = {"params": PARAMS | {ATTACK: {ATTACK: ATTACK}}, "manifests": {ATTACK: json.dumps(stage).encode()}}
    page = Page(render(samples=samples, **changes))
    assert page.text.count(ATTACK) >= 2 * 24
    assert page.raw == plain.raw
    for tag in ("script", "style", "img"):
        same = page.attributes(tag) == plain.attributes(tag)  # not in the assertion: a diff of pictures takes minutes
        assert same, tag
    assert not any(name.startswith("on") or name == "style" for _, attrs in page.tags for name in attrs)


def test_the_page_loads_nothing_and_its_policy_admits_only_its_own_style_and_script(render):
    page = Page(render())
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "srcset", "href", "action", "background", "poster"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, name)
    styles, scripts = page.raw["style"], page.raw["script"]
    assert (len(styles), len(scripts)) == (1, 1)
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"

    (policy,) = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", f"style-src {source(styles[0])}", f"script-src {source(scripts[0])}",
        "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip


def test_equal_input_gives_an_equal_page_without_a_date(render):
    first = render()
    assert first == render()
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b|\d\d:\d\d:\d\d", Page(first).text)


def test_many_long_samples_stay_below_5_mb_and_what_is_left_out_is_said(finished_run, render):
    long = "&" * (MAX_CHARS + 500)
    rows = [
        row | {"id": f"{copy}-{row['id']}", "response": long}
        for copy in range(6)
        for row in finished_run.samples.to_pylist()
    ]
    page = render(samples=pa.Table.from_pylist(rows, schema=finished_run.samples.schema))
    assert len(page.encode()) < 5_000_000
    assert f"The first {MAX_PROMPTS} of 144 prompts" in page
    assert page.count("(500 more characters)") == MAX_PROMPTS * 4


def test_a_missing_measure_is_a_dash_and_a_run_without_training_has_no_such_section(finished_run, render):
    rows = [row | {"kl_nats": None} if row["model"] == "base" else row for row in finished_run.samples.to_pylist()]
    samples = pa.Table.from_pylist(rows, schema=finished_run.samples.schema)
    measures = compare(finished_run.evaluation, samples, seed=1)
    pictures = {"comparison": [], "training": [], "distribution": []}
    page = render(samples=samples, measures=measures, pictures=pictures)
    assert "KL – nats per token from SFT" in page
    assert 'id="training"' not in page
    assert 'href="#training"' not in page


def test_a_measure_that_the_template_needs_and_does_not_get_is_an_error(render):
    with pytest.raises(UndefinedError):
        render(measures=[])


# in a browser


@contextmanager
def browser(profile: Path) -> Iterator:
    """A function that sends one command of the DevTools protocol to a page and returns the reply; `.events` grows."""
    client = pytest.importorskip("websockets.sync.client")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --remote-debugging-port=0"
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on"))
        with client.connect(address, max_size=None) as socket:
            session: dict[str, str] = {}
            events: list[dict] = []

            def send(method: str, until: str | None = None, **params):
                """`until`: the event to wait for after the reply."""
                socket.send(json.dumps({"id": 1, "method": method, "params": params} | session))
                reply, seen = None, until is None
                while reply is None or not seen:
                    message = json.loads(socket.recv(timeout=60))
                    reply = message.get("result", reply)
                    seen = seen or message.get("method") == until
                    if "method" in message:
                        events.append(message)
                return reply

            send.events = events
            target = send("Target.createTarget", url="about:blank")["targetId"]
            session["sessionId"] = send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            yield send
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")
def test_in_chromium_no_error_no_overflow_no_request_and_the_filter_works(finished_run, render, tmp_path):
    path = tmp_path / "index.html"
    samples = with_texts(finished_run.samples, response=ATTACK + "long" * 300)
    path.write_text(render(samples=samples), encoding="utf-8")
    with browser(tmp_path / "profile") as send:

        def evaluate(expression: str):
            return send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

        for domain in ("Page", "Runtime", "Log", "Network"):
            send(f"{domain}.enable")
        for width in (400, 1400):
            send(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width == 400
            )
            send("Page.navigate", until="Page.loadEventFired", url=path.as_uri())
            evaluate("document.querySelectorAll('details').forEach((block) => { block.open = true; })")
            page = "document.documentElement"
            assert evaluate(f"[innerWidth, {page}.scrollWidth - {page}.clientWidth]") == [width, 0]
            assert evaluate("getComputedStyle(document.querySelector('.card')).borderTopLeftRadius") == "10px"
            assert evaluate("[...document.images].every((image) => image.naturalWidth > 300)")
        evaluate(
            "(() => { const input = document.querySelector('input'); input.value = 'NUMBER 7';"
            "input.dispatchEvent(new Event('input')); return ''; })()"
        )
        assert evaluate("document.querySelector('output').textContent") == "1 of 24 prompts"
        assert evaluate("[...document.querySelectorAll('tbody tr')].filter((row) => row.hidden).length") == 23
        kinds = {
            "Log.entryAdded",
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Page.javascriptDialogOpening",
        }
        assert [event for event in send.events if event["method"] in kinds] == []
        requests = [e["params"]["request"]["url"] for e in send.events if e["method"] == "Network.requestWillBeSent"]
        assert all(url.startswith(("file:", "data:")) for url in requests)
