"""The report: one HTML file that needs no network and runs nothing but what sorts and filters its samples."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from triplex.evaluation.accuracy import Accuracy
from triplex.evaluation.comparison import Measure, display, number
from triplex.evaluation.drawing import THEMES, TRAINED, Picture, colours
from triplex.evaluation.findings import NEGLIGIBLE_SD, NEGLIGIBLE_SHARE, findings, headline
from triplex.evaluation.origin import departures, flat, origin
from triplex.evaluation.samples import clip, scores, side_by_side
from triplex.evaluation.shading import SHADE_NATS
from triplex.rl.health import HealthWarning

MAX_SAMPLE_BYTES = 3_000_000  # of the table of samples; with the pictures the page stays below 5 MB


def render_report(
    *,
    evaluation: Mapping[str, Any],
    measures: Sequence[Measure],
    samples: pa.Table,
    pictures: Mapping[str, Sequence[Picture]],
    accuracies: Mapping[str, Accuracy],
    warnings: Mapping[str, Sequence[HealthWarning]],
    params: Mapping[str, Any],
    presets: Mapping[str, Mapping[str, Any]],
    manifests: Mapping[str, bytes],
    seed: int,
) -> str:
    """The page. `pictures` by section: comparison, training, distribution; `accuracies` by part of the reward;
    `warnings` by algorithm; `manifests`: each stage's file, unread.

    Everything that comes from data is escaped; the content security policy admits the page's own style and script by
    their hashes, pictures from data, and nothing else. Equal input gives an equal page: it holds no date.
    """
    environment = _environment()
    models = list(evaluation["models"])
    preset, differing = departures(params, presets)
    return environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        models=models,
        headline=headline(evaluation, samples, seed),
        findings=findings(evaluation, samples),
        negligible_sd=NEGLIGIBLE_SD,
        negligible_share=NEGLIGIBLE_SHARE,
        accuracies=accuracies,
        warnings=[(algorithm, warning) for algorithm, given in warnings.items() for warning in given],
        measures={measure.key: measure for measure in measures},
        pictures=pictures,
        scores=scores(samples),
        sample_rows=list(_sample_rows(environment, samples, models)),
        num_shades=len(SHADE_NATS) + 1,
        params=params,
        preset=preset,
        departures=differing,
        origin=origin(manifests),
        colours=colours(models),
        focus=TRAINED[0],
        themes=THEMES,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        display=display, number=number, flat=flat, clip=clip, rounded=_rounded, data_uri=_data_uri, csp_hash=_csp_hash
    )
    return environment


def _sample_rows(environment: Environment, samples: pa.Table, models: Sequence[str]) -> Iterator[str]:
    """The table's rows as HTML, as many as fit."""
    template, size = environment.get_template("sample.html.j2"), 0
    for row in side_by_side(samples):
        html = template.render(row=row, models=models, scores=scores(samples))
        size += len(html.encode())
        if size > MAX_SAMPLE_BYTES:
            return
        yield html


def _rounded(values: Iterable[float | None]) -> str:
    return json.dumps([None if value is None else float(f"{value:.4g}") for value in values])


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
