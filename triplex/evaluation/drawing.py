"""A picture in a light and a dark version; equal data give equal bytes, whatever the user's matplotlib is set to."""

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from PIL import Image

#: colours of the models that are not trained here, and of the trained ones in their order: told apart with the common
#: colour blindnesses, and at least 3 : 1 against both grounds (after Okabe and Ito 2008)
GIVEN, TRAINED = {"base": "#6E747B", "sft": "#D07A00"}, ("#2B6FD0", "#00A878")
THEMES = {
    "light": {"ground": "#FFFFFF", "ink": "#24292F", "quiet": "#5B6570", "line": "#DDE1E6"},
    "dark": {"ground": "#1B1F24", "ink": "#E6E8EB", "quiet": "#A3ACB6", "line": "#363C44"},
}
_DPI = 150

Paint = Callable[[Figure], None]


@dataclass(frozen=True)
class Picture:
    """A picture's file name without suffix, what is seen on it, and its PNG on a light and on a dark ground."""

    name: str
    title: str
    light: bytes
    dark: bytes


def colours(models: Iterable[str]) -> dict[str, str]:
    """The colour of each model, given all of them in their order."""
    models = list(models)
    trained = dict(zip((model for model in models if model not in GIVEN), TRAINED, strict=False))
    return {model: (GIVEN | trained)[model] for model in models}


def draw(name: str, title: str, size: tuple[float, float], paint: Paint) -> Picture:
    """What `paint` puts on a figure of `size` inches, in each theme, under a title."""
    images = {}
    for theme, shades in THEMES.items():
        with style.context(["default", _style(shades)]):
            figure = Figure(figsize=size, layout="constrained")
            figure.suptitle(title, x=0.015, ha="left")
            paint(figure)
            images[theme] = _png(figure)
    return Picture(name, title, **images)


def _png(figure: Figure) -> bytes:
    """With a palette: a third of the bytes, to the eye the same."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    Image.open(drawn).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()


def _style(colours: Mapping[str, str]) -> dict[str, Any]:
    """matplotlib's own defaults (never the user's file) and the font that it brings, on the theme's ground."""
    ink, quiet, ground = colours["ink"], colours["quiet"], colours["ground"]
    return {
        "font.family": "DejaVu Sans",
        "font.size": 11,
        "figure.titlesize": 11.5,
        "figure.titleweight": "bold",
        "figure.facecolor": ground,
        "axes.facecolor": ground,
        "axes.edgecolor": colours["line"],
        "axes.labelcolor": quiet,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colours["line"],
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "lines.linewidth": 1.8,
        "text.color": ink,
        "xtick.color": quiet,
        "ytick.color": quiet,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
