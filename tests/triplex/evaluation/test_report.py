import base64
import re
from hashlib import sha256
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from jinja2 import UndefinedError

from tests.triplex.evaluation.conftest import ATTACK, ENVIRONMENT, PARAMS, PRESETS, manifests, with_texts
from triplex.evaluation.accuracy import Accuracy
from triplex.evaluation.comparison import compare
from triplex.evaluation.samples import MAX_CHARS
from triplex.rl.health import HealthWarning


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


def test_the_page_says_results_numbers_parameters_and_hashes(render):
    page = Page(render())
    assert "PPO beats SFT by 0.31 (95 % interval 0.27 to 0.35)" in page.text
    assert "within noise" in page.text
    assert "Preset defaultnone of its values changed; seed 17" in page.text
    assert "kl.coef" in page.text
    assert "abababababab data/processed" in page.text
    assert sha256(manifests()["prepare"]).hexdigest()[:12] in page.text
    assert "Every stage: Python 3.11.9 on Linux x86_64, EPYC, AVX2; torch 2.13.0" in page.text
    assert "Level D1" in page.text
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"].count("PPO: losses") == 3


def test_a_changed_parameter_stands_beside_the_presets(render):
    text = render(params=PARAMS | {"seed": 18, "extra": True})
    assert "Changed from the preset default" in text
    assert '<tr><th scope="row">seed</th><td>17</td><td>18</td></tr>' in text
    assert '<tr><th scope="row">extra</th><td>–</td><td>true</td></tr>' in text


def test_what_the_headline_rests_on_stands_beside_it(render):
    page = Page(render())
    assert "Intervals: from 24 prompts and one training of each model, seed 17." in page.text
    right = "The sentiment classifier is right on 98.5 % of 200 held-out texts (95 % interval 95.7 to 99.5 %; "
    assert f"{right}always the commoner label: 52.0 %)." in page.text
    assert "no better than chance" not in page.text
    assert "Training gave" not in page.text


def test_a_reward_model_that_guesses_is_warned_of(render):
    page = Page(render(accuracies={"preference": Accuracy(0.5, 0.31, 0.69, num=24, guessing=0.5)}))
    assert (
        "The preference model is no better than chance on 24 held-out pairs (right on 50 %, 95 % interval 31 to 69 %; "
        "guessing: 50 %): a higher reward from it says little here."
    ) in page.text


def test_the_warnings_of_the_training_stand_there_with_their_step(render):
    given = {"ppo": [HealthWarning(57, "clip_high", "60% of the tokens <b>")], "grpo": []}
    page = Page(render(warnings=given))
    assert "Training gave 1 warning." in page.text
    assert "PPO, step 57: 60% of the tokens <b>." in page.text


def test_an_answer_is_shaded_token_by_token_and_has_its_rewards_parts(finished_run, render):
    samples = finished_run.samples.to_pylist()
    tokens = {"response": " a <b> c", "token_starts": [0, 2, 6], "token_nats": [0.25, 5.0, 9.0]}
    scored = tokens | {"reward": 0.9, "rewards/sentiment": 1.0, "rewards/repetition": -0.1, "kl_nats": None}
    page = render(samples=pa.Table.from_pylist([samples[0] | scored, *samples[1:]], schema=finished_run.samples.schema))
    assert (
        'dir="auto"> <i class=n0 title=0.2>a</i> <i class=n3 title=5.0>&lt;b&gt;</i> <i class=n4 title=9.0>c</i></div>'
    ) in page
    assert "<b>reward 0.90</b> <span>= 1.00 sentiment</span> <span>− 0.10 repetition</span><div class=" in page
    assert '<div class="measured"><span>9 tokens</span><span>KL –</span>' in page
    assert '<td data-scores="[0.9, 1.0, -0.1, ' in page


def test_whatever_comes_from_data_is_text(finished_run, render):
    plain = Page(render())
    samples = with_texts(finished_run.samples, prompt=ATTACK, response=ATTACK)
    hostile = {"inputs": {f"{ATTACK}.py": "ab"}, "outputs": {ATTACK: "ab" * 32}}
    stages = manifests(prepare=hostile | {"environment": ENVIRONMENT | {"processor": ATTACK}})
    source = {"source": {"kind": ATTACK, ATTACK: ATTACK}}
    params = PARAMS | {ATTACK: {ATTACK: ATTACK}, "data": source, "compute": PARAMS["compute"] | {"executor": ATTACK}}
    presets = PRESETS | {ATTACK: params | {"seed": ATTACK}}
    page = Page(render(samples=samples, params=params, presets=presets, manifests=stages | {ATTACK: stages["prepare"]}))
    assert f"Changed from the preset {ATTACK}" in page.text
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
    num_chars = MAX_CHARS + 500  # each a token of its own
    long = {"response": "&" * num_chars, "token_starts": list(range(num_chars)), "token_nats": [5.0] * num_chars}
    rows = [row | long | {"id": f"{row['id']}-{n}"} for n in range(2) for row in finished_run.samples.to_pylist()]
    samples = pa.Table.from_pylist(rows, schema=finished_run.samples.schema)
    page = render(samples=samples, evaluation=finished_run.evaluation | {"num_prompts": 48})
    assert len(page.encode()) < 5_000_000
    shown = int(re.search(r"The first (\d+) of 48 prompts", page)[1])
    assert 10 < shown < 48
    assert page.count("(500 more characters)") == shown * 4


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
