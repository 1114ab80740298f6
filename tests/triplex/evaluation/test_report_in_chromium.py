"""The report in a real browser: on a phone and a desk, light and dark, searched, filtered and sorted."""

import itertools

import pytest

from tests.chromium import CHROMIUM, chromium
from tests.triplex.evaluation.conftest import ATTACK, MODELS, NUM_PROMPTS, with_texts
from triplex.evaluation.drawing import THEMES

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")

SHOWN = "[...document.querySelectorAll('.samples tbody th')].map((cell) => cell.textContent)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as tab:
        yield tab


def opened(tab, folder, page: str, width: int = 1400, dark: bool = False) -> None:
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    tab.open(path.as_uri(), width, dark)


def put(tab, element: str, value: str) -> list[str]:
    """The prompts that are shown after `element` was given `value`."""
    tab.evaluate(
        f"{element}.value = {value!r}; {element}.dispatchEvent(new Event('input', {{bubbles: true}})); undefined"
    )
    return tab.evaluate(SHOWN)


@pytest.mark.parametrize(("width", "dark"), itertools.product((400, 1400), (False, True)))
def test_hostile_texts_on_any_screen_no_error_no_overflow_no_request(
    finished_run, render, tab, tmp_path, width: int, dark: bool
) -> None:
    opened(tab, tmp_path, render(samples=with_texts(finished_run.samples, response=ATTACK + "long" * 200)), width, dark)
    tab.evaluate("for (const block of document.querySelectorAll('details')) block.open = true")
    page = "document.documentElement"
    assert tab.evaluate(f"[innerWidth, {page}.scrollWidth - {page}.clientWidth]") == [width, 0]
    cells = "[...document.querySelectorAll('.numbers td')]"  # every model's column is seen, on a phone too
    assert tab.evaluate(f"Math.max(...{cells}.map((cell) => cell.getBoundingClientRect().right))") < width
    ground = THEMES["dark" if dark else "light"]["ground"]
    colour = f"rgb({', '.join(str(int(ground[i : i + 2], 16)) for i in (1, 3, 5))})"
    assert tab.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == colour
    assert tab.evaluate("[...document.images].every((image) => image.naturalWidth > 300)")
    assert tab.complaints == []
    assert all(address.startswith(("file:", "data:")) for address in tab.requests)


def test_texts_on_every_shade_can_be_read(render, tab, tmp_path) -> None:
    """Contrast of at least 4.5 : 1, as WCAG 2 asks for, in both themes."""
    for dark in (False, True):
        opened(tab, tmp_path, render(), dark=dark)
        ink = tab.evaluate("getComputedStyle(document.querySelector('.samples .text')).color")
        ground = tab.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
        for shade in range(5):
            found = tab.evaluate(f"getComputedStyle(document.querySelector('.legend .n{shade}')).backgroundColor")
            assert contrast(rgba(ink), rgba(found), rgba(ground)) >= 4.5, (dark, shade)


def test_search_filter_and_sort(finished_run, render, tab, tmp_path) -> None:
    opened(tab, tmp_path, render())
    rewards = {
        model: [row["reward"] for row in finished_run.samples.to_pylist() if row["model"] == model] for model in MODELS
    }
    order = [f"prompt number {n}" for n in range(NUM_PROMPTS)]
    assert tab.evaluate(SHOWN) == order

    assert put(tab, "search", "NUMBER 7") == ["prompt number 7"]
    assert tab.evaluate("count.textContent") == "1 of 24 prompts"
    put(tab, "search", "")

    below = [n for n in range(NUM_PROMPTS) if rewards["ppo"][n] < rewards["sft"][n]]
    assert put(tab, "which", "-1 2-1") == [f"prompt number {n}" for n in below]
    put(tab, "which", "")

    put(tab, "of", "2")
    best_first = sorted(range(NUM_PROMPTS), key=lambda n: -rewards["ppo"][n])
    assert put(tab, "by", "0") == [f"prompt number {n}" for n in best_first]
    tab.evaluate("direction.click()")
    assert tab.evaluate(SHOWN) == [f"prompt number {n}" for n in reversed(best_first)]
    gains = sorted(range(NUM_PROMPTS), key=lambda n: rewards["grpo"][n] - rewards["sft"][n])
    assert put(tab, "of", "3-1") == [f"prompt number {n}" for n in gains]
    assert put(tab, "by", "") == order
    assert tab.complaints == []


def test_what_has_no_value_is_sorted_to_the_end_and_long_tables_are_shown_on_demand(
    finished_run, render, tab, tmp_path
) -> None:
    rows = [row | {"id": f"{n}-{row['id']}"} for n in range(2) for row in finished_run.samples.to_pylist()]
    rows[0] |= {"reward": None}  # of the base model
    opened(tab, tmp_path, render(samples=finished_run.samples.from_pylist(rows, schema=finished_run.samples.schema)))
    assert len(tab.evaluate(SHOWN)) == 25
    assert tab.evaluate("more.textContent") == "Show all 48"
    tab.evaluate("more.click()")
    assert tab.evaluate("more.hidden")
    put(tab, "of", "0")
    assert put(tab, "by", "0")[-1] == "prompt number 0"
    tab.evaluate("direction.click()")
    assert len(shown := tab.evaluate(SHOWN)) == 48
    assert shown[-1] == "prompt number 0"


def rgba(colour: str) -> list[float]:
    """Of `rgb(r, g, b)` or `rgba(r, g, b, a)`, r, g and b in 0..1."""
    *channels, alpha = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")] + [1.0] * (
        colour.count(",") == 2
    )
    return [channel / 255 for channel in channels] + [alpha]


def contrast(ink: list[float], shade: list[float], ground: list[float]) -> float:
    """WCAG 2's contrast of opaque ink on a shade that lies on the ground."""
    mixed = [shade[3] * over + (1 - shade[3]) * under for over, under in zip(shade[:3], ground[:3], strict=True)]
    high, low = sorted((luminance(ink[:3]), luminance(mixed)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(rgb: list[float]) -> float:
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
