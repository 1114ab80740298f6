"""The pictures of a run: how the models compare, how training went, how the responses spread."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from triplex.evaluation.comparison import Measure, display, number
from triplex.evaluation.drawing import Picture, colours, draw

_PART = "rewards/"
_PART_LOOKS = (  # colour and dashes of the reward's parts, in alphabetical order
    ("#B0559A", "--"),
    ("#8C6D31", "-."),
    ("#7F858C", ":"),
    ("#C4483A", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    ("#6A6FB5", (0, (3, 3))),
    ("#4E8F8F", (0, (1, 3))),
)
_LEVELS = {"word": "o", "phrase": "s", "sentence": "^"}  # and their markers
_INTERVAL = "line: 95 % interval"
_OUT_OF_THE_PICTURE = 8  # times the second longest bar
_SMALL, _WIDE, _TALL = (3.8, 2.6), (5.4, 3.5), (5.4, 4.3)  # inches
_NUM_BINS = 30

Curves = Mapping[str, Sequence[Any]]  # a column of numbers or None by its name


def training_pictures(curves: Mapping[str, Curves]) -> list[Picture]:
    """Each algorithm's reward, KL and losses, on equal scales beside each other; then what is shared by all."""
    drawn = []
    for quantity in (_reward, _kl, _losses):
        drawn += [quantity(algorithm, curves) for algorithm in curves]
    if any(value is not None for run in curves.values() for value in run.get("eval/reward", [])):
        drawn.append(_held_out(curves))
    drawn.append(_frontier(curves))
    drawn.append(_shared("clip", "Share of tokens whose ratio was clipped", "clip_ratio", "share of tokens", curves))
    drawn.append(_shared("entropy", "Entropy of the policy", "entropy", "nats per token", curves))
    drawn.append(_shared("ended", "Responses that ended by themselves", "completions/terminated_frac", "share", curves))
    drawn.append(_shared("length", "Mean response length", "completions/mean_length", "tokens", curves))
    if all("improvement_pct" in run for run in curves.values()):
        title = "Improvement of the human text's perplexity over an empty response"
        drawn.append(_shared("improvement", title, "improvement_pct", "per cent", curves))
        drawn.append(_shared("overlap", "Word triples of the human text in the response", "overlap", "share", curves))
    return drawn


def comparison_pictures(measures: Sequence[Measure]) -> list[Picture]:
    """Each model with its 95 % interval, in what is measured; after the reward, what it is made of."""
    by_key = {measure.key: measure for measure in measures}
    keys = ("sentiment", "improvement_pct", "distinct_2", "repetition", "length", "kl")
    bars = [_bars(by_key[key]) for key in keys if key in by_key]
    parts = {key.removeprefix(_PART): measure for key, measure in by_key.items() if key.startswith(_PART)}
    perplexity = {level: by_key[f"perplexity_{level}"] for level in _LEVELS}
    return [_bars(by_key["reward"]), _parts(parts), *bars, _perplexity(perplexity)]


def distribution_pictures(samples: pa.Table, models: Sequence[str], reference: str) -> list[Picture]:
    """How reward, length, KL and perplexity spread over the responses, a row of bins a model.

    The KL of the `reference` to itself is 0, and left out.
    """
    others = [model for model in models if model != reference]
    return [
        _histograms("reward", "Reward of each response", "reward", samples, models),
        _histograms("num_tokens", "Length of each response", "tokens", samples, models),
        _histograms("kl_nats", "KL of each response to the reference", "nats per token", samples, others),
        _histograms("word_nats", "Surprise of each response, word level", "nats per token", samples, models),
    ]


def _reward(algorithm: str, curves: Mapping[str, Curves]) -> Picture:
    columns = sorted({name for run in curves.values() for name in run if name.startswith(_PART)})

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for index, column in enumerate(columns):
            if column in curves[algorithm]:
                colour, dashes = _PART_LOOKS[index % len(_PART_LOOKS)]
                _line(axes, curves[algorithm], column, colour, column.removeprefix(_PART), linestyle=dashes)
        _line(axes, curves[algorithm], "reward", colours(curves)[algorithm], "reward (sum)", linewidth=2.4)
        _finish(axes, curves, ["reward", *columns], "reward")
        _legend(axes)

    return draw(f"reward-{algorithm}", f"{display(algorithm)}: reward and the parts of its sum", _WIDE, paint)


def _kl(algorithm: str, curves: Mapping[str, Curves]) -> Picture:
    def paint(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        _line(above, curves[algorithm], "kl_target", "#C4483A", "target", smooth=False, linestyle="--")
        _line(above, curves[algorithm], "kl", colours(curves)[algorithm], "KL")
        _line(below, curves[algorithm], "kl_coef", colours(curves)[algorithm], "coefficient", smooth=False)
        _finish(above, curves, ["kl", "kl_target"], "nats per token")
        _finish(below, curves, ["kl_coef"], "coefficient")
        above.set_xlabel("")
        _legend(above)

    title = f"{display(algorithm)}: KL to the reference, its target and coefficient"
    return draw(f"kl-{algorithm}", title, _TALL, paint)


def _losses(algorithm: str, curves: Mapping[str, Curves]) -> Picture:
    names = {"loss": "loss", "policy_loss": "policy loss", "value_loss": "value loss"}

    def paint(figure: Figure) -> None:
        shown = [name for name in names if name in curves[algorithm]]
        rows = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(rows, shown, strict=True):
            _line(axes, curves[algorithm], name, colours(curves)[algorithm], names[name])
            _finish(axes, curves, [name], names[name])
            if axes is not rows[-1]:
                axes.set_xlabel("")

    return draw(f"loss-{algorithm}", f"{display(algorithm)}: losses", _TALL, paint)


def _held_out(curves: Mapping[str, Curves]) -> Picture:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for algorithm, run in curves.items():
            _line(axes, run, "eval/reward", colours(curves)[algorithm], display(algorithm), smooth=False, marker="o")
        _finish(axes, curves, ["eval/reward"], "reward")
        _legend(axes)

    return draw("reward-held-out", "Reward on held-out prompts while training", _WIDE, paint)


def _frontier(curves: Mapping[str, Curves]) -> Picture:
    """The reward that was reached at each distance from the reference; of two runs the upper one pays less for it."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for algorithm, run in curves.items():
            kl, reward = (running_mean(np.array(run[name], np.float64)) for name in ("kl", "reward"))
            axes.plot(kl, reward, color=colours(curves)[algorithm], label=display(algorithm))
            axes.plot(kl[-1:], reward[-1:], "o", markersize=9, color=colours(curves)[algorithm])
        axes.margins(0.1)
        axes.set_xlabel("KL to the reference, nats per token; dot: the last step")
        axes.set_ylabel("reward")
        _legend(axes)

    return draw("frontier", "Reward against KL", _WIDE, paint)


def _shared(name: str, title: str, column: str, unit: str, curves: Mapping[str, Curves]) -> Picture:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for algorithm, run in curves.items():
            _line(axes, run, column, colours(curves)[algorithm], display(algorithm))
        _finish(axes, curves, [column], unit)
        _legend(axes)

    return draw(name, title, _WIDE, paint)


def _bars(measure: Measure) -> Picture:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, (model, (value, low, high)) in enumerate(measure.models.items()):
            if value is not None and low is not None and high is not None:
                axes.barh(row, value, height=0.62, color=colours(measure.models)[model])
                axes.hlines(row, low, high, color=rcParams["text.color"], linewidth=1.6)
                label = number(value, min(measure.digits, 2))
                axes.annotate(label, (max(high, 0), row), (5, 0), textcoords="offset points", va="center")
        axes.axvline(0, color=rcParams["text.color"], linewidth=0.8)
        axes.margins(x=0.18)
        _end_near_the_others(axes, measure)
        _model_rows(axes, measure)
        axes.set_xlabel(f"{measure.unit}; {_INTERVAL}" if measure.unit else _INTERVAL)

    return draw(f"compare-{measure.key}", measure.label, _SMALL, paint)


def _parts(parts: Mapping[str, Measure]) -> Picture:
    """The mean of each part, end to end: what adds to the reward right of zero, what takes from it left of it."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        models = list(next(iter(parts.values())).models)
        right, left = np.zeros(len(models)), np.zeros(len(models))
        for index, (name, measure) in enumerate(sorted(parts.items())):
            values = np.array([measure.models[model].value or 0.0 for model in models])
            start = np.where(values > 0, right, left)
            axes.barh(
                models, values, left=start, height=0.62, color=_PART_LOOKS[index % len(_PART_LOOKS)][0], label=name
            )
            right, left = np.maximum(right, start + values), np.minimum(left, start + values)
        axes.axvline(0, color=rcParams["text.color"], linewidth=0.8)
        axes.use_sticky_edges = False
        axes.margins(x=0.08)
        _model_rows(axes, next(iter(parts.values())))
        axes.set_xlabel("mean of each part, as it enters the sum")
        _legend(axes, num_columns=2)

    return draw("compare-parts", "What the reward is made of", _SMALL, paint)


def _end_near_the_others(axes: Axes, measure: Measure) -> None:
    """A bar that is far longer than all the others runs out of the picture: its number tells how far."""
    *others, longest = sorted(abs(value) for value, _, _ in measure.models.values() if value is not None)
    if others and longest > _OUT_OF_THE_PICTURE * others[-1] > 0:
        low, high = axes.get_xlim()
        limit = _OUT_OF_THE_PICTURE / 2 * others[-1]
        axes.set_xlim(max(low, -limit), min(high, limit))


def _perplexity(levels: Mapping[str, Measure]) -> Picture:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for offset, (level, measure) in zip((-0.22, 0, 0.22), levels.items(), strict=True):
            axes.plot([], [], _LEVELS[level], color=rcParams["text.color"], label=level, markersize=6)
            for row, (model, (value, low, high)) in enumerate(measure.models.items()):
                if value is not None and low is not None and high is not None:
                    axes.hlines(row + offset, low, high, color=rcParams["text.color"], linewidth=1.6)
                    axes.plot(value, row + offset, _LEVELS[level], color=colours(measure.models)[model], markersize=7)
        axes.set_xlim(left=0)
        _model_rows(axes, levels["word"])
        axes.set_xlabel(_INTERVAL)
        _legend(axes)

    return draw("compare-perplexity", "Perplexity on three levels", _SMALL, paint)


def _model_rows(axes: Axes, measure: Measure) -> None:
    axes.set_yticks(range(len(measure.models)), [display(model) for model in measure.models])
    axes.set_ylim(len(measure.models) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _histograms(column: str, title: str, unit: str, samples: pa.Table, models: Sequence[str]) -> Picture:
    values = {model: samples.filter(pc.equal(samples["model"], model))[column].to_numpy() for model in models}
    edges = _bin_edges(np.concatenate(list(values.values())))

    def paint(figure: Figure) -> None:
        rows = figure.subplots(len(models), sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, (model, found) in zip(rows, values.items(), strict=True):
            axes.hist(found, bins=edges, color=colours(models)[model])
            axes.axvline(found.mean(), color=rcParams["text.color"], linewidth=1.6)
            axes.set_ylabel(display(model), rotation=0, ha="right", va="center")
            axes.grid(visible=False, axis="y")
        rows[-1].set_xlabel(f"{unit}; line: mean; height: number of responses")

    return draw(f"spread-{column}", title, _TALL, paint)


def _bin_edges(values: NDArray[Any]) -> NDArray[np.float64]:
    """About _NUM_BINS bins of one width over all the values; for counts of tokens the width is a whole number."""
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.integer):
        width = 1 + (high - low) // _NUM_BINS
        return np.arange(low, high + width + 1, width) - 0.5
    return np.histogram_bin_edges(values, _NUM_BINS)


def _line(axes: Axes, run: Curves, column: str, colour: str, label: str, *, smooth: bool = True, **kwargs: Any) -> None:
    """Each step thin, the running mean bold; steps without such a number are left out."""
    values = np.array(run.get(column, [None] * len(run["step"])), dtype=np.float64)
    steps, values = np.array(run["step"])[np.isfinite(values)], values[np.isfinite(values)]
    if len(values):
        if smooth:
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
            values = running_mean(values)
        axes.plot(steps, values, color=colour, label=label, **kwargs)


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a window of a tenth of the steps around each step, cut off at both ends."""
    width = max(1, len(values) // 20) * 2 + 1
    window = np.ones(min(width, len(values)))
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _finish(axes: Axes, curves: Mapping[str, Curves], columns: Sequence[str], unit: str) -> None:
    """Axes that are the same for every algorithm, whatever the others reach."""
    values = np.concatenate([np.array(run.get(name, []), np.float64) for run in curves.values() for name in columns])
    values = values[np.isfinite(values)]
    if values.size and np.ptp(values):
        margin = 0.06 * np.ptp(values)
        axes.set_ylim(values.min() - margin, values.max() + margin)
    axes.set_xlim(0, max(1, *(run["step"][-1] for run in curves.values())))  # the only step may be number 0
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(unit)


def _legend(axes: Axes, num_columns: int = 3) -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=num_columns)
