"""What every reward here owes: one finite number in its range for each completion, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from triplex.models.loading import load_causal_lm
from triplex.models.saving import save_model
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.composite import CompositeReward
from triplex.rewards.contract import Reward
from triplex.rewards.length import LengthConfig, LengthReward
from triplex.rewards.perplexity import MultiLevelPerplexityReward
from triplex.rewards.repetition import RepetitionConfig, RepetitionReward
from triplex.rewards.sentiment import ClassifierSentiment, VaderSentiment

RANGES = {
    "length": (-1, 0), "repetition": (-1, 0), "vader": (0, 1), "classifier": (0, 1), "perplexity": (-1, 0),
    "composite": (-2, 1),
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


@pytest.fixture(scope="module")
def rewards(
    tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> dict[str, Reward]:
    folder: Path = tmp_path_factory.mktemp("models") / "base"
    save_model(folder, tiny_lm(), tiny_tokenizer)
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    classifier.config.pad_token_id = tiny_tokenizer.pad_token_id
    scorer = FrozenScorer(*load_causal_lm(folder))
    mean, half_width, weights = torch.full((3,), 5.0), torch.full((3,), 0.1), (0.2, 0.3, 0.5)
    made: dict[str, Reward] = {
        "length": LengthReward(LengthConfig(weight=1.0, min_tokens=4, max_tokens=8)),
        "repetition": RepetitionReward(RepetitionConfig(weight=1.0, ngram_size=2)),
        "vader": VaderSentiment(),
        "classifier": ClassifierSentiment(classifier, tiny_tokenizer),
        "perplexity": MultiLevelPerplexityReward(scorer, mean, half_width, weights),
    }
    return made | {
        "composite": CompositeReward({name: (1.0, made[name]) for name in ("vader", "length", "repetition")})
    }


def call(reward: Reward, completions: list[str]) -> list[float | None]:
    ids = [[5] * len(text.split()) + [0] for text in completions]
    return reward(prompts=["The tea"] * len(ids), completions=completions, completion_ids=ids, label=[None] * len(ids))


@pytest.mark.parametrize("completion", COMPLETIONS)
@pytest.mark.parametrize("name", RANGES)
def test_one_number_in_range(rewards: dict[str, Reward], name: str, completion: str) -> None:
    (value,) = call(rewards[name], [completion])
    low, high = RANGES[name]
    if value is None:
        assert (name, completion) == ("perplexity", "")
    else:
        assert isinstance(value, float)
        assert low <= value <= high


@pytest.mark.parametrize("name", RANGES)
def test_bad_74_neither_order_nor_company_matters(rewards: dict[str, Reward], name: str) -> None:
    completions = [str(param.values[0]) for param in COMPLETIONS]
    together = call(rewards[name], completions)
    backwards = call(rewards[name], completions[::-1])[::-1]
    alone = [call(rewards[name], [text])[0] for text in completions]
    assert together == [None if value is None else pytest.approx(value, abs=1e-5) for value in backwards]
    assert together == [None if value is None else pytest.approx(value, abs=1e-5) for value in alone]


@pytest.mark.parametrize("name", RANGES)
def test_bad_73_scoring_twice_is_scoring_once(rewards: dict[str, Reward], name: str) -> None:
    completions = [str(param.values[0]) for param in COMPLETIONS]
    state = torch.get_rng_state()
    assert call(rewards[name], completions) == call(rewards[name], completions)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", RANGES)
def test_an_empty_batch_has_no_rewards(rewards: dict[str, Reward], name: str) -> None:
    assert call(rewards[name], []) == []
