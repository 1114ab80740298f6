"""What a finished stage shows on Prefect's pages: the metrics, the plots, how far the flow is."""

import base64
import json
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

EVALUATION = Path("reports/eval.json")
PLOTS = Path("reports/plots")
REPORT = Path("reports/index.html")
MAX_PICTURE_BYTES = 1_000_000  # in all, as base64
_FIRST = ("reward", "kl", "compare")  # what the names of pictures begin with that one looks for


def publish(outs: tuple[str, ...]) -> None:
    """Show what a stage with these outs has just written, or what was still up to date."""
    if EVALUATION.as_posix() in outs and EVALUATION.is_file():
        evaluation = json.loads(EVALUATION.read_text(encoding="utf-8"))
        description = f"{evaluation['num_prompts']} held-out prompts, mean with {evaluation['confidence']:.0%} interval"
        create_table_artifact(key="triplex-metrics", table=metrics_table(evaluation), description=description)
    if any(Path(out) == PLOTS or PLOTS in Path(out).parents for out in outs) and PLOTS.is_dir():
        create_markdown_artifact(key="triplex-report", markdown=report(), description="The plots of the last run")


def metrics_table(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a model of reports/eval.json, numbers as text with four digits, the difference as the report has it."""
    from triplex.evaluation.comparison import display  # SciPy takes seconds to import, at every start of a flow
    from triplex.evaluation.findings import signed

    reference, paired = evaluation["reference"], evaluation["paired"]

    def against_reference(name: str) -> str:
        if name == reference:
            return ""
        diff, low, high = signed("reward", paired[name]["reward"])
        return f"{diff} ({low} to {high})"

    return [
        {
            "model": name,
            "reward": f"{model['reward']['mean']:.4f}",
            "reward interval": f"{model['reward']['ci_low']:.4f} to {model['reward']['ci_high']:.4f}",
            f"reward against {display(reference)}": against_reference(name),
            **{key: f"{model[key]:.4f}" for key in ("sentiment", "overlap") if key in model},
            **(
                {"improvement, per cent": f"{model['improvement_pct']['mean']:.2f}"}
                if "improvement_pct" in model
                else {}
            ),
            "repetition": f"{model['repetition']:.4f}",
            "distinct_2": f"{model['distinct_2']:.4f}",
            "length": f"{model['length']:.1f}",
            "kl_nats": f"{model['kl_nats']:.4f}",
            "perplexity word / phrase / sentence": " / ".join(f"{value:.2f}" for value in model["perplexity"].values()),
        }
        for name, model in evaluation["models"].items()
    ]


def report() -> str:
    """Markdown with the plots as data URIs, those of reward and KL first, as many as fit below 1 MB."""
    text = [f"The whole report: `{REPORT}`, opened in a browser.\n"]
    size = 0
    for picture in sorted(PLOTS.glob("*.png"), key=_place):
        encoded = base64.b64encode(picture.read_bytes()).decode()
        if size + len(encoded) > MAX_PICTURE_BYTES:
            text.append(f"`{picture}`: left out here, too large.\n")
            continue
        size += len(encoded)
        text.append(f"![{picture.stem}](data:image/png;base64,{encoded})\n")
    return "\n".join(text)


def _place(picture: Path) -> tuple[int, str]:
    rank = next((i for i, name in enumerate(_FIRST) if picture.stem.startswith(name)), len(_FIRST))
    return rank, picture.stem
