"""A small run as the earlier stages leave it: evaluation, samples and curves."""

import json
import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from triplex.evaluation.accuracy import Accuracy
from triplex.evaluation.comparison import compare
from triplex.evaluation.drawing import Picture, draw
from triplex.evaluation.plots import comparison_pictures, distribution_pictures, training_pictures
from triplex.evaluation.report import render_report

MODELS = ("base", "sft", "ppo", "grpo")
NUM_PROMPTS, NUM_STEPS = 24, 40
ATTACK = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{ 7*7 }}</style></td>"""
PARAMS = {
    "seed": 17,
    "compute": {"executor": "local", "num_workers": 1, "threads": 2, "precision": "float32"},
    "data": {"source": {"kind": "embedded", "num_reviews": 20000}},
    "ppo": {"kl": {"coef": 0.05}, "steps": [1, 2]},
}
PRESETS = {"default": PARAMS, "tiny": {"compute": PARAMS["compute"] | {"threads": 1}, "ppo": {"steps": [1]}}}
ENVIRONMENT = {
    "python": "3.11.9", "system": "Linux", "machine": "x86_64", "processor": "EPYC", "vector": "AVX2", "gpu": None,
    "packages": {"torch": "2.13.0"},
}  # fmt: skip


def _samples(rng: np.random.Generator) -> pa.Table:
    words = ["a", "quiet", "warm", "film", "moves", "slowly", "through", "the", "bright", "city", "never", "tires"]
    rows = []
    for level, model in enumerate(MODELS):
        for index in range(NUM_PROMPTS):
            sentiment, nats = (
                float(rng.uniform(0.2 * level, 0.2 * level + 0.3)),
                float(rng.normal(4 - 0.3 * level, 0.2)),
            )
            scores = {
                "reward": sentiment - 0.1,
                "sentiment": sentiment,
                "repetition": 0.1 * level,
                "kl_nats": 0.05 * level,
            }
            levels = {"word_nats": nats, "phrase_nats": nats + 0.3, "sentence_nats": nats + 0.1}
            parts = {"rewards/sentiment": sentiment, "rewards/repetition": -0.1}
            text = {"prompt": f"prompt number {index}", "response": " ".join(rng.choice(words, 9))}
            starts = [match.start() for match in re.finditer(r"\S+", text["response"])]
            tokens = {"token_starts": starts, "token_nats": rng.uniform(0, 9, len(starts)).tolist()}
            row = {"id": f"e{index:03d}", "model": model, **text, "num_tokens": 9 + index % 5}
            rows.append(row | scores | levels | parts | tokens)
    table = pa.Table.from_pylist(rows)
    return table.set_column(4, "num_tokens", table["num_tokens"].cast(pa.int32()))


def _evaluation() -> dict:
    def model(level: int) -> dict:
        return {
            "reward": {"mean": 0.2 * level, "std": 0.1, "min": 0.0, "max": 1.0, "ci_low": 0.1, "ci_high": 0.3},
            "components": {"sentiment": 0.2 * level, "repetition": -0.1},
            "sentiment": 0.2 * level, "distinct_1": 0.2, "distinct_2": 0.5, "vocabulary": 1234 + level,
            "repetition": 0.1, "self_bleu": 0.25, "length": 11.0, "kl_nats": 0.05 * level,
            "perplexity": {"word": 30.0, "phrase": 40.0, "sentence": 35.0},
        }  # fmt: skip

    clear, noise = {"diff": 0.31, "ci_low": 0.27, "ci_high": 0.35}, {"diff": 0.4, "ci_low": -1.1, "ci_high": 1.9}
    below = {"diff": -0.2, "ci_low": -0.24, "ci_high": -0.16}
    return {
        "models": {name: model(level) for level, name in enumerate(MODELS)},
        "paired": {
            "base": {"reward": below, "sentiment": below, "repetition": below, "length": noise},
            "ppo": {"reward": clear, "sentiment": clear, "repetition": clear, "length": noise},
            "grpo": {"reward": clear, "sentiment": clear, "repetition": noise, "length": noise},
        },
        "reference": "sft",
        "num_prompts": NUM_PROMPTS,
        "confidence": 0.95,
    }


def _curves(rng: np.random.Generator) -> dict:
    def run(seed: int) -> dict:
        rise = np.linspace(0, 1, NUM_STEPS)
        columns = {
            "reward": rise, "kl": 0.2 * rise, "kl_target": np.full(NUM_STEPS, 0.1), "kl_coef": np.full(NUM_STEPS, 0.05),
            "entropy": 3 - rise, "loss": -0.1 * rise, "policy_loss": -0.1 * rise, "clip_ratio": 0.1 * rise,
            "completions/mean_length": 20 + 5 * rise, "completions/terminated_frac": 0.5 + 0.4 * rise,
            "rewards/sentiment": 1.1 * rise, "rewards/repetition": -0.1 * rise,
        }  # fmt: skip
        noisy = {name: (values + rng.normal(0, 0.01, NUM_STEPS)).tolist() for name, values in columns.items()}
        held_out = [value if step % 10 == 0 else None for step, value in enumerate(rise.tolist(), start=1)]
        return {"step": list(range(1, NUM_STEPS + 1)), **noisy, "eval/reward": held_out}

    ppo, grpo = run(0), run(1)
    ppo["value_loss"] = np.linspace(0.5, 0.1, NUM_STEPS).tolist()
    grpo["kl_target"] = [None] * NUM_STEPS
    return {"ppo": ppo, "grpo": grpo}


@pytest.fixture(scope="session")
def finished_run() -> SimpleNamespace:
    rng = np.random.default_rng(7)
    return SimpleNamespace(evaluation=_evaluation(), samples=_samples(rng), curves=_curves(rng), models=MODELS)


@pytest.fixture(scope="session")
def pictures(finished_run: SimpleNamespace) -> dict[str, list[Picture]]:
    """Every picture of the run by the report's section; drawn once, for it takes seconds."""
    measures = compare(finished_run.evaluation, finished_run.samples, seed=1)
    return {
        "comparison": comparison_pictures(measures),
        "training": training_pictures(finished_run.curves),
        "distribution": distribution_pictures(finished_run.samples, finished_run.models, "sft"),
    }


def manifests(**changes: dict) -> dict[str, bytes]:
    """Those of two stages; `changes`: a stage's keys that differ."""
    code = {"stages/prepare.py": "12" * 32, "triplex/runs/seeds.py": "34" * 32}
    stages = {
        "prepare": {"inputs": code, "outputs": {"data/processed": "ab" * 32}},
        "evaluate": {"inputs": code | {"models/sft": "56" * 32}, "outputs": {"reports/eval.json": "cd" * 32}},
    }
    return {
        name: json.dumps({"stage": name, "environment": ENVIRONMENT} | stage | changes.get(name, {})).encode()
        for name, stage in stages.items()
    }


def with_texts(samples: pa.Table, **texts: str) -> pa.Table:
    """The same table with the same texts in every row."""
    return pa.Table.from_pylist([row | texts for row in samples.to_pylist()], schema=samples.schema)


@pytest.fixture(scope="session")
def render(finished_run: SimpleNamespace) -> Callable[..., str]:
    """The page of the small run, with whatever a test changes in what it is made from."""
    picture = draw("x", "PPO: losses", (5.4, 4.3), lambda figure: figure.subplots())
    given = {
        "evaluation": finished_run.evaluation,
        "measures": compare(finished_run.evaluation, finished_run.samples, seed=1),
        "samples": finished_run.samples,
        "pictures": {section: [picture] for section in ("comparison", "training", "distribution")},
        "accuracies": {"sentiment": Accuracy(0.985, 0.957, 0.995, num=200, guessing=0.52)},
        "warnings": {"ppo": [], "grpo": []},
        "params": PARAMS,
        "presets": PRESETS,
        "manifests": manifests(),
        "seed": 1,
    }
    return lambda **changes: render_report(**(given | changes))
