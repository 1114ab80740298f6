import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification

from triplex.models.loading import load_causal_lm
from triplex.models.saving import save_model
from triplex.models.sources import FolderConfig
from triplex.perplexity.baselines import NATS_COLUMNS, scorer_identity, write_baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.folder import RewardConfig, RewardSpec, load_reward, load_reward_sentiment, load_spec, save_reward
from triplex.rewards.length import LengthReward
from triplex.rewards.repetition import RepetitionReward
from triplex.rewards.sentiment import ClassifierSentiment, Vader, VaderSentiment
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree

PROMPTS = ["The tea", "I like", "A good book"]
COMPLETIONS = [" kettle kettle kettle boils.", " this lamp. It is bright!", ""]
IDS = [[5, 6, 6, 6, 7, 0], [8, 9, 0], [0]]
LEVELS = PerplexityConfig(
    max_tokens_per_batch=256,
    word_pool={"kind": "mean"}, phrase_pool={"kind": "cvar", "q": 0.5}, sentence_pool={"kind": "lme", "lambda": 2.0},
)  # fmt: skip


def config(
    *,
    vader: bool = False,
    sentiment: float = 1.0,
    repetition: float = 0.5,
    length: float = 0.25,
    perplexity: float = 2.0,
) -> RewardConfig:
    model = Vader(kind="vader") if vader else FolderConfig(kind="folder", path="elsewhere", sha256="0")
    return RewardConfig(
        sentiment={"weight": sentiment, "model": model},
        repetition={"weight": repetition, "ngram_size": 1},
        length={"weight": length, "min_tokens": 4, "max_tokens": 8},
        perplexity={
            "weight": perplexity,
            "band_width": 0.5,
            "level_weights": {"word": 0.2, "phrase": 0.3, "sentence": 0.5},
        },
    )


@pytest.fixture
def scorer(tmp_path: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    save_model(tmp_path / "sft", tiny_lm(seed=3), tiny_tokenizer)
    return tmp_path / "sft"


@pytest.fixture
def baselines(scorer: Path) -> Path:
    """Two references: mean 5.5 and standard deviation sqrt(1/2) nats on every level."""
    rows = [
        {"id": str(i), "split": "train", "prompt_sha256": "", "reference_sha256": "", "num_tokens": 9}
        | dict.fromkeys(NATS_COLUMNS, 5.0 + i)
        for i in range(2)
    ]
    write_baselines(scorer.parent / "baselines.parquet", rows, scorer_identity(scorer, "float32", LEVELS))
    return scorer.parent / "baselines.parquet"


@pytest.fixture
def classifier(scorer: Path, tiny_tokenizer: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(scorer, num_labels=2).eval()
    model.config.pad_token_id = tiny_tokenizer.pad_token_id
    return model, tiny_tokenizer


def test_loaded_reward_gives_the_parts_numbers(
    tmp_path: Path, scorer: Path, baselines: Path, classifier: tuple[Any, Any]
) -> None:
    spec = RewardSpec(config=config(), perplexity=LEVELS, accuracy=0.9)
    save_reward(tmp_path / "reward", spec, classifier)
    loaded = load_reward(tmp_path / "reward", scorer, baselines, "float32").score(PROMPTS, COMPLETIONS, IDS)

    # (nats (3 texts, 3 levels) - 5.5) outside half of sqrt(1/2) on either side, 1 at most; none for the empty text
    nats = FrozenScorer(*load_causal_lm(scorer), max_tokens_per_batch=256, pools=LEVELS.pools()).level_nats(
        PROMPTS, COMPLETIONS
    )
    outside = ((nats[:, 1:] - 5.5).abs() - 0.5 * 0.5**0.5).clamp(min=0) @ torch.tensor([0.2, 0.3, 0.5])
    expected = {
        "sentiment": torch.tensor(ClassifierSentiment(*classifier)(PROMPTS, COMPLETIONS, IDS)),
        "repetition": 0.5 * torch.tensor(RepetitionReward(config().repetition)(PROMPTS, COMPLETIONS, IDS)),
        "length": 0.25 * torch.tensor(LengthReward(config().length)(PROMPTS, COMPLETIONS, IDS)),
        "perplexity": -2.0 * outside.clamp(max=1) * torch.tensor([1.0, 1.0, 0.0]),
    }
    assert set(loaded.components) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(loaded.components[name], values, rtol=0, atol=1e-5)
    torch.testing.assert_close(loaded.total, torch.stack(list(expected.values())).sum(0), rtol=0, atol=1e-5)


def test_sentiment_alone_is_without_its_weight(tmp_path: Path, classifier: tuple[Any, Any]) -> None:
    spec = RewardSpec(config=config(sentiment=0.0), perplexity=LEVELS, accuracy=None)
    save_reward(tmp_path / "reward", spec, classifier)
    alone = load_reward_sentiment(tmp_path / "reward", "float32")(PROMPTS, COMPLETIONS, IDS)
    assert alone == ClassifierSentiment(*classifier)(PROMPTS, COMPLETIONS, IDS)


def test_spec_survives(tmp_path: Path) -> None:
    spec = RewardSpec(config=config(vader=True), perplexity=LEVELS, accuracy=None)
    save_reward(tmp_path / "reward", spec, None)
    assert load_spec(tmp_path / "reward") == spec
    assert [path.name for path in (tmp_path / "reward").iterdir()] == ["reward.json"]


def test_vader_without_perplexity_needs_no_model(tmp_path: Path) -> None:
    spec = RewardSpec(config=config(vader=True, perplexity=0.0), perplexity=LEVELS, accuracy=None)
    save_reward(tmp_path / "reward", spec, None)
    composite = load_reward(tmp_path / "reward", tmp_path / "nowhere", tmp_path / "nowhere", "float32")
    output = composite.score(PROMPTS, COMPLETIONS, IDS)
    assert set(output.components) == {"sentiment", "repetition", "length"}
    assert output.components["sentiment"].tolist() == pytest.approx(VaderSentiment()(PROMPTS, COMPLETIONS, IDS))


def test_equal_rewards_are_equal_bytes(tmp_path: Path, classifier: tuple[Any, Any]) -> None:
    spec = RewardSpec(config=config(), perplexity=LEVELS, accuracy=0.9)
    for name in "ab":
        save_reward(tmp_path / name / "reward", spec, classifier)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")


def test_band_of_another_scorer_is_refused(
    tmp_path: Path, baselines: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    save_model(tmp_path / "other", tiny_lm(seed=4), tiny_tokenizer)
    spec = RewardSpec(config=config(vader=True), perplexity=LEVELS, accuracy=None)
    save_reward(tmp_path / "reward", spec, None)
    with pytest.raises(InputError, match=r"made by another scorer: weights was .*\n  remedy: run `dvc repro baseline`"):
        load_reward(tmp_path / "reward", tmp_path / "other", baselines, "float32")


def test_bad_40_a_reward_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="every part has weight 0; give at least one a weight above 0"):
        config(sentiment=0.0, repetition=0.0, length=0.0, perplexity=0.0)


def test_folder_without_a_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no reward.json\n  remedy: run the stage that writes it"):
        load_spec(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"config": {}}', b"\xff\xfe"],
    ids=["empty", "cut", "list", "nothing", "part", "bytes"],
)
def test_damaged_spec_is_refused(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "reward.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"reward.json: not a reward .*\n  remedy: run `dvc repro reward`"):
        load_spec(tmp_path)


def test_spec_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    spec = RewardSpec(config=config(vader=True), perplexity=LEVELS, accuracy=None)
    save_reward(tmp_path, spec, None)
    file = tmp_path / "reward.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"extra": 1}))
    with pytest.raises(InputError, match="not a reward"):
        load_spec(tmp_path)


def test_missing_classifier_is_refused(tmp_path: Path) -> None:
    save_reward(tmp_path, RewardSpec(config=config(), perplexity=LEVELS, accuracy=None), None)
    with pytest.raises(InputError, match="no such model folder"):
        load_reward_sentiment(tmp_path, "float32")
