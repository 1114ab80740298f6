import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from triplex.models.saving import save_model
from triplex.perplexity.baselines import score_baselines, scorer_identity, to_table, write_baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.levels import LEVELS
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.adapters import TRLReward
from triplex.rewards.perplexity import LevelWeights, MultiLevelPerplexityReward, PerplexityRewardConfig
from triplex.runs.errors import InputError

PROMPTS, COMPLETIONS, IDS = ["The tea", "A good book"], [" boils fast. It is good!", " is small"], [[5, 6, 0], [7, 0]]
REFERENCES = [" kettle boils fast.", " well made, but the print is small."]
BAND: dict[str, Any] = {"kind": "response", "shape": "band", "band_width": 0.5}
PLAN: dict[str, Any] = {
    "kind": "reference",
    "plan": {"after": "", "before": ""},
    "profile": "geometric",
    "map": {"kind": "linear", "per_pct": 0.5, "low": -50, "high": 50},
}


class Folders(NamedTuple):
    scorer: Path
    baselines: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, scorer: FrozenScorer, levels: PerplexityConfig) -> Folders:
    """The scorer as a folder, and its table of both references."""
    root = tmp_path_factory.mktemp("perplexity")
    save_model(root / "sft", scorer.model, scorer.tokenizer)
    rows = [
        {"id": str(i), "split": "train", "prompt": prompt, "reference": reference}
        for i, (prompt, reference) in enumerate(zip(PROMPTS, REFERENCES, strict=True))
    ]
    noise = {cause: dict.fromkeys(LEVELS, 0.0) for cause in ("batch", "threads", "precision")}
    identity = scorer_identity(root / "sft", "float32", levels)
    write_baselines(root / "baselines.parquet", [to_table(score_baselines(scorer, levels, rows))], identity, noise)
    return Folders(root / "sft", root / "baselines.parquet")


@pytest.fixture
def load(folders: Folders, levels: PerplexityConfig) -> Callable[..., MultiLevelPerplexityReward]:
    def build(target: dict[str, Any], level_weights: Any = "default", **changes: Any) -> MultiLevelPerplexityReward:
        arguments: dict[str, Any] = {
            "scorer_folder": folders.scorer,
            "baselines": folders.baselines,
            "precision": "float32",
            "levels": levels,
            "config": {"weight": 1.0, "level_weights": level_weights, "target": target},
        }
        return MultiLevelPerplexityReward.load(**arguments | changes)

    return build


Load = Callable[..., MultiLevelPerplexityReward]


@pytest.mark.parametrize(
    ("level_weights", "weights"),
    [
        ("default", (0.2, 0.3, 0.5)),
        ("story", (0.1, 0.3, 0.6)),
        ("technical", (0.4, 0.4, 0.2)),
        ("code", (0.4, 0.5, 0.1)),
        ({"word": 1.0, "phrase": 0.0, "sentence": 0.0}, (1.0, 0.0, 0.0)),
    ],
)
def test_band_around_the_references_by_hand(
    load: Load, scorer: FrozenScorer, level_weights: Any, weights: tuple[float, ...]
) -> None:
    """Two references: their mean, and half of their standard deviation |a - b| / sqrt(2) to either side."""
    a, b = scorer.level_nats(PROMPTS, REFERENCES).tolist()
    expected = []
    for nats in scorer.level_nats(PROMPTS, COMPLETIONS).tolist():
        outside = [
            max(0.0, abs(nats[level] - (a[level] + b[level]) / 2) - 0.5 * abs(a[level] - b[level]) / math.sqrt(2))
            for level in (1, 2, 3)
        ]
        expected.append(-min(1.0, sum(w * o for w, o in zip(weights, outside, strict=True))))
    assert any(-1 < value < 0 for value in expected)
    found = load(BAND, level_weights, guarded=True)(PROMPTS, COMPLETIONS, IDS)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("level_weights", "weights"), [("default", (0.2, 0.3, 0.5)), ("code", (0.4, 0.5, 0.1))])
def test_improvement_of_the_references_by_hand(
    load: Load, scorer: FrozenScorer, level_weights: str, weights: tuple[float, ...]
) -> None:
    empty = scorer.level_nats([f"{p} Plan: Story:" for p in PROMPTS], REFERENCES).tolist()
    contexts = [f"{p} Plan:{c} Story:" for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    after = scorer.level_nats(contexts, REFERENCES).tolist()
    saved = [
        sum(w * (b - p) for w, b, p in zip(weights, before[1:], now[1:], strict=True))
        for before, now in zip(empty, after, strict=True)
    ]
    expected = [min(50, max(-50, 0.5 * 100 * (1 - math.exp(-nats)))) for nats in saved]
    logged: dict[str, list[float]] = {}
    found = load(PLAN, level_weights)(
        PROMPTS, COMPLETIONS, IDS, reference=REFERENCES, log_extra=lambda name, values: logged.update({name: values})
    )
    assert found == pytest.approx(expected, abs=1e-3)
    assert set(logged) == {"improvement_pct", "overlap"}


@pytest.mark.parametrize("target", [BAND, PLAN], ids=["response", "reference"])
def test_its_recipe_and_its_pickle_give_the_same_numbers(load: Load, target: dict[str, Any]) -> None:
    reward = load(target | ({"unguarded": True} if target is BAND else {}))
    expected = list(reward(PROMPTS, COMPLETIONS, IDS, reference=REFERENCES))
    assert reward.recipe is not None
    assert reward.recipe.load() is not reward
    assert reward.recipe.load()(PROMPTS, COMPLETIONS, IDS, reference=REFERENCES) == expected
    again = pickle.loads(pickle.dumps(reward.as_trl()))  # noqa: S301
    assert isinstance(again, TRLReward)
    assert again(PROMPTS, COMPLETIONS, IDS, reference=REFERENCES) == expected
    assert (again.__name__, len(again.tokenizer)) == ("perplexity", 320)


def test_another_process_loads_it_from_its_pickle(load: Load, tmp_path: Path) -> None:
    reward = load(PLAN)
    (tmp_path / "reward.pickle").write_bytes(pickle.dumps(reward.as_trl()))
    code = (
        "import pickle, torch; torch.set_num_threads(1)\n"
        f"reward = pickle.load(open({str(tmp_path / 'reward.pickle')!r}, 'rb'))\n"
        f"print(reward({PROMPTS!r}, {COMPLETIONS!r}, {IDS!r}, reference={REFERENCES!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(reward(PROMPTS, COMPLETIONS, IDS, reference=REFERENCES)), done.stderr


@pytest.mark.parametrize("shape", ["band", "clipped"])
def test_a_response_without_a_guard_is_refused(load: Load, shape: str) -> None:
    target = BAND | {"shape": shape}
    with pytest.raises(InputError, match=r"without a repetition and a length part.*\n  remedy: .*unguarded: true"):
        load(target)
    load(target, guarded=True)
    load(target | {"unguarded": True})
    load(PLAN)  # a human text cannot collapse


def test_baselines_of_another_scorer_are_refused(load: Load, levels: PerplexityConfig) -> None:
    with pytest.raises(InputError, match=r"made by another scorer: precision was float32, is bfloat16"):
        load(PLAN, precision="bfloat16")
    with pytest.raises(InputError, match=r"made by another scorer: template was .*Plan:.*, is {prompt}{response}"):
        load(PLAN, levels=levels.model_copy(update={"template": "{prompt}{response}"}))


def test_wrong_sections_are_refused_by_their_keys(load: Load) -> None:
    with pytest.raises(ValidationError, match=r"target\n  Input tag 'respond'"):
        load({"kind": "respond"})
    with pytest.raises(ValidationError, match=r"target.response.bandwidth\n  Extra inputs"):
        load(BAND | {"bandwidth": 1.0})


@pytest.mark.parametrize(
    "weights",
    [
        pytest.param((0.0, 0.0, 0.0), id="bad-40-sum-0"),
        pytest.param((0.2, 0.3, 0.6), id="bad-40-sum-above-1"),
        pytest.param((-0.5, 0.5, 1.0), id="bad-40-negative"),
        pytest.param((float("nan"), 0.5, 0.5), id="bad-40-nan"),
    ],
)
def test_impossible_weights_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match=r"they must sum to 1|greater than or equal to 0|finite number"):
        LevelWeights(word=weights[0], phrase=weights[1], sentence=weights[2])


def test_bad_40_weights_of_no_known_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="'default', 'story', 'technical' or 'code'"):
        PerplexityRewardConfig.model_validate({"weight": 1.0, "level_weights": "storey", "target": BAND})
