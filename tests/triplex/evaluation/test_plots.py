import io
import itertools
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from triplex.evaluation.comparison import Estimate, Measure
from triplex.evaluation.drawing import THEMES, colours
from triplex.evaluation.plots import (
    _end_near_the_others,
    distribution_pictures,
    running_mean,
    training_pictures,
)
from triplex.evaluation.report import MAX_SAMPLE_BYTES

# linear sRGB as a protanope, a deuteranope, a tritanope sees it: Machado, Oliveira, Fernandes 2009, severity 1
SIGHT = {
    "common": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
COLOURS = colours(["base", "sft", "ppo", "grpo"])
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    t = XYZ @ rgb / np.array([0.95047, 1, 1.08883])
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_models_are_told_apart_with_every_sight(sight):
    seen = {model: lab(np.clip(SIGHT[sight] @ linear(colour), 0, 1)) for model, colour in COLOURS.items()}
    for a, b in itertools.combinations(COLOURS, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 15, (a, b)


def test_any_two_algorithms_have_the_two_colours_of_the_trained() -> None:
    assert list(colours(["base", "sft", "rloo", "ppo"]).values()) == list(COLOURS.values())
    assert colours(["rloo", "ppo"]) == {"rloo": COLOURS["ppo"], "ppo": COLOURS["grpo"]}


@pytest.mark.parametrize("theme", THEMES)
def test_contrast_against_the_ground(theme):
    def contrast(a: str, b: str) -> float:
        light, dark = sorted((float(XYZ[1] @ linear(a)), float(XYZ[1] @ linear(b))), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    ground = THEMES[theme]["ground"]
    assert all(contrast(colour, ground) >= 3 for colour in COLOURS.values())
    assert all(contrast(THEMES[theme][text], ground) >= 4.5 for text in ("ink", "quiet"))


def test_every_quantity_is_drawn_once_and_nothing_touches_the_edge(pictures):
    drawn = [*pictures["training"], *pictures["comparison"], *pictures["distribution"]]
    names = [picture.name for picture in drawn]
    assert names == [
        "reward-ppo", "reward-grpo", "kl-ppo", "kl-grpo", "loss-ppo", "loss-grpo", "reward-held-out", "frontier",
        "clip", "entropy", "ended", "length",
        "compare-reward", "compare-parts", "compare-sentiment", "compare-distinct_2", "compare-repetition",
        "compare-length", "compare-kl", "compare-perplexity",
        "spread-reward", "spread-num_tokens", "spread-kl_nats", "spread-word_nats",
    ]  # fmt: skip
    for picture, theme in itertools.product(drawn, THEMES):
        image = imread(io.BytesIO(getattr(picture, theme)))[:, :, :3]
        ground = np.array([int(THEMES[theme]["ground"][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert np.abs(frame - ground).max() < 0.01, (picture.name, theme)
        assert np.abs(image - ground).max() > 0.5, (picture.name, theme)


def test_all_pictures_together_leave_room_for_the_samples_on_a_page_of_5_mb(pictures):
    size = sum(len(picture.light) + len(picture.dark) for group in pictures.values() for picture in group)
    assert size * 4 / 3 + MAX_SAMPLE_BYTES < 4_500_000


def test_a_models_bar_has_its_colour(pictures):
    image = imread(io.BytesIO(pictures["comparison"][0].light))[:, :, :3]
    for model in COLOURS:
        colour = np.array([int(COLOURS[model][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(image - colour).max(axis=2) < 0.01).sum() > 300, model


def test_equal_data_give_equal_bytes_whatever_the_users_matplotlib_is_set_to(finished_run, pictures, tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.labelsize: 30\nsavefig.dpi: 20\naxes.linewidth: 9\n")
    (tmp_path / "run").write_bytes(pickle.dumps((finished_run.samples, finished_run.models, "sft")))
    script = (
        "import pickle, sys\nfrom triplex.evaluation.plots import *\n"
        "drawn = distribution_pictures(*pickle.load(open(sys.argv[1], 'rb')))\n"
        "pickle.dump([(p.name, p.light, p.dark) for p in drawn], open(sys.argv[2], 'wb'))"
    )
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "TZ": "Pacific/Auckland"}
    command = [sys.executable, "-c", script, str(tmp_path / "run"), str(tmp_path / "out")]
    subprocess.run(command, check=True, env=environment)
    second = pickle.loads((tmp_path / "out").read_bytes())  # noqa: S301  (written two lines above)
    for picture, (name, light, dark) in zip(pictures["distribution"], second, strict=True):
        same = picture.light == light, picture.dark == dark  # not in the assertion: a diff of pictures takes minutes
        assert (picture.name, *same) == (name, True, True)


def test_pictures_hold_no_text_and_no_date(pictures):
    for picture in pictures["training"]:
        kinds, offset = [], 8
        while offset < len(picture.light):
            (size,) = struct.unpack(">I", picture.light[offset : offset + 4])
            kinds.append(picture.light[offset + 4 : offset + 8])
            offset += 12 + size
        assert set(kinds) == {b"IHDR", b"PLTE", b"IDAT", b"IEND"}


@pytest.mark.filterwarnings("error")
def test_a_run_of_one_step_equal_rewards_and_an_unknown_model_can_be_drawn(finished_run):
    curves = {"dapo": {name: values[:1] for name, values in finished_run.curves["grpo"].items()} | {"step": [0]}}
    assert len(training_pictures(curves)) == 8
    row = finished_run.samples.to_pylist()[0] | {"model": "dapo"}
    samples = pa.Table.from_pylist([row, row], schema=finished_run.samples.schema)
    assert len(distribution_pictures(samples, ["dapo"], "sft")) == 4


# running mean


def test_running_mean_by_hand():
    assert running_mean(np.array([1.0, 4.0, 7.0, 2.0])) == pytest.approx([2.5, 4.0, 13 / 3, 4.5])


def test_running_mean_against_plain_loops():
    values = np.random.default_rng(0).normal(size=100)  # a window of 11
    assert running_mean(values) == pytest.approx([values[max(0, i - 5) : i + 6].mean() for i in range(100)])


def test_running_mean_follows_shift_and_reversal():
    values = np.random.default_rng(0).normal(size=61)
    assert running_mean(values + 3) == pytest.approx(running_mean(values) + 3)
    assert running_mean(values[::-1]) == pytest.approx(running_mean(values)[::-1])


def test_running_mean_edges():
    assert running_mean(np.array([2.0])) == pytest.approx([2.0])
    assert running_mean(np.full(50, 0.3)) == pytest.approx(np.full(50, 0.3))


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ((-1000.0, 10.0, 20.0), (-80.0, 20.0)),  # four times the second longest
        ((-100.0, 10.0, 20.0), (-100.0, 20.0)),
        ((5.0,), (0.0, 5.0)),
    ],
)
def test_one_bar_out_of_scale_does_not_hide_the_others(values: tuple[float, ...], limits: tuple[float, float]) -> None:
    axes = Figure().subplots()
    axes.set_xlim(min(0.0, *values, 0.0), max(0.0, *values, 0.0))
    models = {str(i): Estimate(value, value, value) for i, value in enumerate(values)}
    _end_near_the_others(axes, Measure("x", "X", "", "", 1, models))
    assert axes.get_xlim() == limits
