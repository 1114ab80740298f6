"""What every reward here owes: one finite number in its range for each completion, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification

from triplex.models.saving import save_model
from triplex.perplexity.baselines import Baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.composite import CompositeReward, Part
from triplex.rewards.contract import Bounds, PartConfig, Reward
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.perplexity import MultiLevelPerplexityReward, PerplexityRewardConfig
from triplex.rewards.repetition import RepetitionConfig, RepetitionReward
from triplex.rewards.sentiment import ClassifierSentiment, GradedSentiment, VaderSentiment

RANGES = {
    "length": (-1, 0), "words": (-1, 0), "tokens": (-1, 0), "vader": (0, 1), "classifier": (0, 1),
    "graded": (-0.5, 2), "band": (-1, 0), "clipped": (-1, 0), "reference": (-2, 2), "composite": (-2, 1),
}  # fmt: skip
COMPLETIONS = [
    pytest.param(" kettle boils fast. It is good!", id="plain"),
    pytest.param("", id="bad-24-empty"),
    pytest.param("...!?,", id="bad-21-punctuation"),
    pytest.param(" tea", id="bad-22-one-word"),
    pytest.param("x", id="bad-22-one-token"),
    pytest.param(" 👩‍👩‍👧 👍🏽", id="bad-20-emoji"),
    pytest.param(" مرحبا", id="bad-20-rtl"),
    pytest.param("价格很好。", id="bad-20-cjk"),
    pytest.param("\x00\u2028\r\n\t", id="bad-17-control-characters"),
    pytest.param("<|endoftext|> good", id="special-token"),
]
PROMPT, REFERENCE = "The tea", " kettle stays cool."
TARGETS: dict[str, dict[str, Any]] = {
    "band": {"kind": "response", "shape": "band", "band_width": 0.1},
    "clipped": {"kind": "response", "shape": "clipped", "band_width": 0.1},
    "reference": {
        "kind": "reference",
        "plan": {"after": "", "before": "."},
        "profile": "geometric",
        "map": {"kind": "linear", "per_pct": 0.01, "low": -2, "high": 2},
    },
}


@pytest.fixture(scope="module")
def rewards(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_lm: Callable[..., Any],
    tiny_tokenizer: Any,
    scorer: FrozenScorer,
    levels: PerplexityConfig,
    table_of: Callable[..., Baselines],
) -> dict[str, Reward]:
    folder: Path = tmp_path_factory.mktemp("models") / "base"
    save_model(folder, tiny_lm(), tiny_tokenizer)
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    classifier.config.pad_token_id = tiny_tokenizer.pad_token_id
    pairs = [(PROMPT, REFERENCE), ("p", "r")]
    table = table_of(pairs, [[5.0] * 4, [5.2] * 4], [[5.0] * 4, [5.2] * 4])
    made: dict[str, Reward] = {
        "length": LengthReward(LengthConfig(weight=1.0, min_tokens=4, max_tokens=8)),
        "words": RepetitionReward(RepetitionConfig(weight=1.0, unit="word", ngram_size=2)),
        "tokens": RepetitionReward(RepetitionConfig(weight=1.0, unit="token", ngram_size=2)),
        "vader": VaderSentiment(),
        "classifier": ClassifierSentiment(classifier, tiny_tokenizer),
        "graded": GradedSentiment(ClassifierSentiment(classifier, tiny_tokenizer)),
    }
    for name, target in TARGETS.items():
        config = {"weight": 1.0, "level_weights": "default", "target": target}
        made[name] = MultiLevelPerplexityReward(scorer, levels, table, PerplexityRewardConfig.model_validate(config))
    return made | {"composite": CompositeReward({name: Part(made[name]) for name in ("vader", "length", "words")})}


def call(reward: Reward, completions: list[str]) -> list[float | None]:
    ids = [[5] * len(text.split()) + [0] for text in completions]
    num = len(ids)
    return list(
        reward(
            prompts=[PROMPT] * num,
            completions=completions,
            completion_ids=ids,
            reference=[REFERENCE] * num,
            label=[None] * num,
        )
    )


@pytest.mark.parametrize("completion", COMPLETIONS)
@pytest.mark.parametrize("name", RANGES)
def test_one_number_in_range(rewards: dict[str, Reward], name: str, completion: str) -> None:
    (value,) = call(rewards[name], [completion])
    low, high = RANGES[name]
    assert isinstance(value, float)
    assert low <= value <= high


@pytest.mark.parametrize("name", RANGES)
def test_bad_74_neither_order_nor_company_matters(rewards: dict[str, Reward], name: str) -> None:
    completions = [str(param.values[0]) for param in COMPLETIONS]
    together = call(rewards[name], completions)
    backwards = call(rewards[name], completions[::-1])[::-1]
    alone = [call(rewards[name], [text])[0] for text in completions]
    assert together == pytest.approx(backwards, abs=1e-5)
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("name", RANGES)
def test_bad_73_scoring_twice_is_scoring_once(rewards: dict[str, Reward], name: str) -> None:
    completions = [str(param.values[0]) for param in COMPLETIONS]
    state = torch.get_rng_state()
    assert call(rewards[name], completions) == call(rewards[name], completions)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", RANGES)
def test_an_empty_batch_has_no_rewards(rewards: dict[str, Reward], name: str) -> None:
    assert call(rewards[name], []) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param({"weight": -0.5}, "greater than or equal to 0", id="bad-40-weight-below-0"),
        pytest.param({"weight": float("nan")}, "finite number|greater than or equal to 0", id="bad-40-weight-nan"),
        pytest.param({"weight": float("inf")}, "finite number", id="bad-40-weight-infinite"),
        pytest.param({"weight": "1"}, "valid number", id="bad-39-weight-text"),
        pytest.param({"weight": 1.0, "clip": None}, "leave the key out", id="bad-38-clip"),
        pytest.param({"weight": 1.0, "clip": {"low": 1.0}}, "high\n  Field required", id="bad-37-clip"),
        pytest.param(
            {"weight": 1.0, "clip": {"low": 1.0, "high": -1.0}},
            "low = 1 is not below high = -1",
            id="bad-40-clip-order",
        ),
        pytest.param({"weight": 1.0, "clip": {"low": 1.0, "high": 1.0}}, "is not below", id="bad-40-clip-of-one-value"),
        pytest.param({"weight": 1.0, "normalise": 1}, "valid boolean", id="bad-39-normalise"),
        pytest.param({"weight": 1.0, "normalize": True}, "Extra inputs", id="bad-36-normalise"),
    ],
)
def test_what_no_part_can_have_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PartConfig.model_validate(values)


def test_a_part_is_neither_normalised_nor_clipped_unless_it_says_so() -> None:
    assert PartConfig(weight=1.0) == PartConfig(weight=1.0, normalise=False)
    assert PartConfig(weight=1.0).clip is None
    assert PartConfig.model_validate({"weight": 1, "clip": {"low": -1, "high": 2}}).clip == Bounds(low=-1.0, high=2.0)
