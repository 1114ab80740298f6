import hashlib
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import AutoModelForSequenceClassification

from triplex.models.saving import save_model
from triplex.perplexity.baselines import score_baselines, scorer_identity, to_table, write_baselines
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.levels import LEVELS
from triplex.perplexity.scorer import FrozenScorer
from triplex.rewards.calibration import Moments
from triplex.rewards.folder import (
    RewardConfig,
    RewardSpec,
    load_part,
    load_reward,
    load_sentiment_part,
    load_spec,
    save_spec,
)
from triplex.rewards.length import LengthReward
from triplex.rewards.perplexity import MultiLevelPerplexityReward
from triplex.rewards.plugin import PluginReward
from triplex.rewards.preference import PreferenceReward
from triplex.rewards.repetition import RepetitionReward
from triplex.rewards.sentiment import ClassifierSentiment, GradedSentiment, VaderSentiment
from triplex.runs.errors import InputError

PROMPTS = ["The tea", "I like", "A good book"]
COMPLETIONS = [" kettle kettle kettle boils.", " this lamp. It is bright!", ""]
IDS = [[5, 6, 6, 6, 7, 0], [8, 9, 0], [0]]
REFERENCES = [" kettle boils fast.", " it.", " is good."]

ELSEWHERE = {"kind": "folder", "path": "elsewhere", "sha256": "0"}
SENTIMENT = {"weight": 1.0, "form": "probability", "model": ELSEWHERE}
VADER = {"weight": 1.0, "form": "probability", "model": {"kind": "vader"}}
REPETITION = {"weight": 0.5, "unit": "token", "ngram_size": 1}
LENGTH = {"weight": 0.25, "min_tokens": 4, "max_tokens": 8}
BAND = {"kind": "response", "shape": "band", "band_width": 0.5}
PLAN = {
    "kind": "reference",
    "plan": {"after": "", "before": ""},
    "profile": "geometric",
    "map": {"kind": "interpolated", "steps": "vrcli"},
}
BANDED = {"weight": 2.0, "level_weights": "default", "target": BAND}
CALIBRATION = {"num_samples": 8, "max_new_tokens": 9, "temperature": 1.0}
PLUGIN_SOURCE = (
    "def score(prompts, completions, completion_ids, **columns):\n"
    "    return [float(len(text)) if text else None for text in completions]\n"
)
PLUGIN = {
    "name": "letters", "path": "plugins/letters.py", "function": "score", "weight": 0.1, "timeout_s": 60.0,
    "sha256": hashlib.sha256(PLUGIN_SOURCE.encode()).hexdigest(),
}  # fmt: skip
Parts = dict[str, Any]


def config(**parts: Any) -> RewardConfig:
    return RewardConfig.model_validate(parts)


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory, scorer: FrozenScorer, levels: PerplexityConfig, tiny_tokenizer: Any
) -> Path:
    """The scorer, its baselines, and the models that a reward folder can hold."""
    root = tmp_path_factory.mktemp("models")
    save_model(root / "sft", scorer.model, scorer.tokenizer)
    rows = [
        {"id": str(i), "split": "train", "prompt": prompt, "reference": reference}
        for i, (prompt, reference) in enumerate(zip(PROMPTS, REFERENCES, strict=True))
    ]
    noise = {cause: dict.fromkeys(LEVELS, 0.0) for cause in ("batch", "threads", "precision")}
    identity = scorer_identity(root / "sft", "float32", levels)
    write_baselines(root / "baselines.parquet", [to_table(score_baselines(scorer, levels, rows))], identity, noise)
    for name, num_labels in (("classifier", 2), ("preference", 1)):
        torch.manual_seed(num_labels)
        model = AutoModelForSequenceClassification.from_pretrained(root / "sft", num_labels=num_labels).eval()
        model.config.pad_token_id = tiny_tokenizer.pad_token_id
        save_model(root / name, model, tiny_tokenizer)
    return root


Save = Callable[..., Path]


@pytest.fixture
def save(root: Path, tmp_path: Path, levels: PerplexityConfig) -> Save:
    """`save(calibration={...}, **parts)`: a reward folder with all models and the plug-in."""

    def build(calibrated: Parts | None = None, **parts: Any) -> Path:
        folder = tmp_path / "reward"
        moments = calibrated or {}
        spec = RewardSpec(config=config(**parts), perplexity=levels, accuracy={}, calibration=moments)
        save_spec(folder, spec)
        for name in ("classifier", "preference"):
            (folder / name).symlink_to(root / name)
        (folder / "plugins").mkdir()
        (folder / "plugins" / "letters.py").write_text(PLUGIN_SOURCE)
        return folder

    return build


@pytest.fixture
def places(root: Path) -> tuple[Path, Path, str]:
    return root / "sft", root / "baselines.parquet", "float32"


def part(folder: Path, name: str, places: tuple[Path, Path, str]) -> Any:
    return load_part(name, folder, load_spec(folder), *places)


def test_loaded_reward_is_the_weighted_sum_of_its_parts(save: Save, places: Any) -> None:
    """Normalised by (value - mean) / std, then clipped, then weighted; a part that does not apply adds 0."""
    folder = save(
        sentiment=SENTIMENT,
        repetition=REPETITION,
        length=LENGTH | {"clip": {"low": -0.2, "high": 0.0}},
        perplexity=BANDED,
        plugins=[PLUGIN | {"normalise": True}],
        calibration=CALIBRATION,
        calibrated={"letters": Moments(mean=20.0, std=4.0)},
    )
    found = load_reward(folder, *places).score(PROMPTS, COMPLETIONS, IDS)
    values = {name: part(folder, name, places)(PROMPTS, COMPLETIONS, IDS) for name in ("sentiment", "perplexity")}
    expected = {
        "sentiment": values["sentiment"],
        # tokens 5 6 6 6 7 0: 4 of 6 are different
        "repetition": [0.5 * (4 / 6 - 1), 0.0, 0.0],
        # lengths 6, 3, 1 of at least 4
        "length": [0.0, 0.25 * -0.2, 0.25 * -0.2],
        "perplexity": [2 * value for value in values["perplexity"]],
        "letters": [0.1 * (len(COMPLETIONS[0]) - 20) / 4, 0.1 * (len(COMPLETIONS[1]) - 20) / 4, 0.0],
    }
    assert list(found.components) == list(expected)
    for name, each in expected.items():
        assert found.components[name].tolist() == pytest.approx(each, abs=1e-6), name
    total = [sum(each[row] for each in expected.values()) for row in range(3)]
    assert found.total.tolist() == pytest.approx(total, abs=1e-5)
    assert found.valid.tolist() == [True] * 3


def test_each_part_is_the_reward_of_its_section(save: Save, places: Any) -> None:
    folder = save(
        sentiment=SENTIMENT, repetition=REPETITION, length=LENGTH, perplexity=BANDED, plugins=[PLUGIN],
        preference={"weight": 1.0, "model": ELSEWHERE}, calibration=CALIBRATION,
    )  # fmt: skip
    kinds = {
        "sentiment": ClassifierSentiment,
        "repetition": RepetitionReward,
        "length": LengthReward,
        "perplexity": MultiLevelPerplexityReward,
        "preference": PreferenceReward,
        "letters": PluginReward,
    }
    assert load_spec(folder).config.parts().keys() == kinds.keys()
    for name, kind in kinds.items():
        assert type(part(folder, name, places)) is kind


def test_every_network_of_a_reward_is_divided_and_whole_while_its_part_scores(save: Save, places: Any) -> None:
    preference = {"weight": 1.0, "normalise": False, "model": ELSEWHERE}
    folder = save(sentiment=SENTIMENT | {"form": "graded"}, length=LENGTH, perplexity=BANDED, repetition=REPETITION,
                  preference=preference)  # fmt: skip
    reward = load_reward(folder, *places)
    seen: list[str] = []

    def divide_at_rest(network: nn.Module) -> Any:
        seen.append(f"divided {type(network).__name__}")

        @contextmanager
        def whole() -> Iterator[None]:
            seen.append(f"whole {type(network).__name__}")
            yield

        return whole

    reward.divide(divide_at_rest)
    reward.score(PROMPTS, COMPLETIONS, IDS)
    names = [name.removeprefix("divided ") for name in seen[:3]]
    assert sorted(names) == ["GPT2ForSequenceClassification", "GPT2ForSequenceClassification", "GPT2LMHeadModel"]
    assert seen[3:] == [f"whole {name}" for name in names]


def test_a_reward_of_the_reference_alone_needs_its_column(save: Save, places: Any) -> None:
    reward = load_reward(save(perplexity=BANDED | {"target": PLAN}), *places)
    output = reward.score(PROMPTS, COMPLETIONS, IDS, reference=REFERENCES)
    assert set(output.extras) == {"improvement_pct", "overlap"}
    assert output.total.tolist()[2] == output.extras["improvement_pct"][2] == 0.0  # an empty response
    with pytest.raises(InputError, match="no column `reference`"):
        reward.score(PROMPTS, COMPLETIONS, IDS)


@pytest.mark.parametrize("form", ["probability", "graded"])
def test_the_sentiment_part_for_evaluation_has_neither_weight_nor_form(save: Save, places: Any, form: str) -> None:
    folder = save(sentiment=SENTIMENT | {"weight": 0.0, "form": form}, length=LENGTH)
    alone = load_sentiment_part(folder, "float32")
    assert type(alone) is ClassifierSentiment
    assert load_reward(folder, *places).parts.keys() == {"length"}


def test_without_a_sentiment_part_there_is_none(save: Save) -> None:
    assert load_sentiment_part(save(length=LENGTH), "float32") is None


def test_graded_is_a_form_of_the_part(save: Save, places: Any) -> None:
    folder = save(sentiment=VADER | {"form": "graded"})
    assert type(part(folder, "sentiment", places)) is GradedSentiment
    positive = VaderSentiment()(PROMPTS, COMPLETIONS, IDS)
    expected = [0.0 if p == 0.5 else 2 * p if p > 0.5 else -0.5 * (1 - p) for p in positive]
    assert load_reward(folder, *places)(PROMPTS, COMPLETIONS, IDS) == pytest.approx(expected)


FULL: Parts = {
    "sentiment": SENTIMENT, "repetition": REPETITION, "length": LENGTH,
    "perplexity": BANDED | {"target": PLAN, "normalise": True, "clip": {"low": -3, "high": 3}},
    "calibration": CALIBRATION, "plugins": [PLUGIN], "calibrated": {"perplexity": Moments(mean=0.25, std=0.5)},
}  # fmt: skip


def test_its_recipe_and_its_pickle_give_the_same_numbers(save: Save, places: Any) -> None:
    reward = load_reward(save(**FULL), *places)
    expected = reward(PROMPTS, COMPLETIONS, IDS, reference=REFERENCES)
    assert reward.recipe is not None
    assert json.loads(json.dumps(reward.recipe.arguments)) == reward.recipe.arguments
    assert reward.recipe.load() is not reward
    assert reward.recipe.load()(PROMPTS, COMPLETIONS, IDS, reference=REFERENCES) == expected
    again = pickle.loads(pickle.dumps(reward.as_trl()))  # noqa: S301
    assert again(PROMPTS, COMPLETIONS, IDS, reference=REFERENCES) == expected
    assert again.__name__ == "composite"
    assert again.tokenizer("The tea")["input_ids"] == reward.tokenizer("The tea")["input_ids"]


def test_spec_survives(save: Save, levels: PerplexityConfig) -> None:
    spec = load_spec(save(**FULL))
    assert spec.config == config(**{name: value for name, value in FULL.items() if name != "calibrated"})
    assert spec.perplexity == levels
    assert spec.calibration == {"perplexity": Moments(mean=0.25, std=0.5)}


def test_equal_specs_are_equal_bytes(tmp_path: Path, levels: PerplexityConfig) -> None:
    for name in "ab":
        spec = RewardSpec(config=config(length=LENGTH), perplexity=levels, accuracy={"sentiment": 0.9}, calibration={})
        save_spec(tmp_path / name, spec)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["reward.json"]
    assert (tmp_path / "a" / "reward.json").read_bytes() == (tmp_path / "b" / "reward.json").read_bytes()


def test_without_perplexity_no_model_is_needed(save: Save, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    reward = load_reward(save(sentiment=VADER, repetition=REPETITION), nowhere, nowhere, "float32")
    found = reward.score(PROMPTS, COMPLETIONS, IDS).components
    assert found["sentiment"].tolist() == pytest.approx(VaderSentiment()(PROMPTS, COMPLETIONS, IDS))
    assert reward.tokenizer is None


def test_baselines_of_another_scorer_are_refused(
    save: Save, tmp_path: Path, root: Path, tiny_lm: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    save_model(tmp_path / "other", tiny_lm(seed=4), tiny_tokenizer)
    folder = save(repetition=REPETITION, length=LENGTH, perplexity=BANDED)
    with pytest.raises(InputError, match=r"made by another scorer: weights was .*\n  remedy: run `dvc repro baseline`"):
        load_reward(folder, tmp_path / "other", root / "baselines.parquet", "float32")


def test_parts_that_are_absent_or_of_weight_0_do_not_count() -> None:
    some = config(
        sentiment=SENTIMENT | {"weight": 0.0},
        length=LENGTH,
        plugins=[PLUGIN, PLUGIN | {"name": "other"}],
        calibration=CALIBRATION,
    )
    assert list(some.parts()) == ["length", "letters", "other"]
    assert list(config(length=LENGTH, plugins=[PLUGIN | {"weight": 0.0}]).parts()) == ["length"]


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"sentiment": SENTIMENT | {"weight": 0.0}},
        {"length": LENGTH | {"weight": 0.0}, "plugins": [PLUGIN | {"weight": 0.0}]},
        {"calibration": CALIBRATION},
    ],
)
def test_bad_40_a_reward_of_nothing_is_refused(parts: Parts) -> None:
    with pytest.raises(ValidationError, match="every part has weight 0; give at least one a weight above 0"):
        config(**parts)


def test_bad_38_a_part_that_is_null_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"sentiment\n.*null; leave the key out"):
        config(sentiment=None, length=LENGTH)


@pytest.mark.parametrize("shape", ["band", "clipped"])
@pytest.mark.parametrize(
    "others",
    [
        {},
        {"repetition": REPETITION},
        {"length": LENGTH, "sentiment": VADER},
        {"repetition": REPETITION, "length": LENGTH | {"weight": 0.0}},
        {"repetition": REPETITION | {"weight": 0.0}, "length": LENGTH},
    ],
    ids=["alone", "no-length", "no-repetition", "length-0", "repetition-0"],
)
def test_a_response_target_without_both_guards_is_refused(others: Parts, shape: str) -> None:
    target = BAND | {"shape": shape}
    with pytest.raises(ValidationError, match=r"without a repetition and a length part.*unguarded: true"):
        config(perplexity=BANDED | {"target": target}, **others)
    config(perplexity=BANDED | {"target": target | {"unguarded": True}}, **others)
    config(perplexity=BANDED | {"target": PLAN}, **others)
    config(perplexity=BANDED | {"target": target}, repetition=REPETITION, length=LENGTH)


def test_a_response_target_of_weight_0_needs_no_guard() -> None:
    assert list(config(perplexity=BANDED | {"weight": 0.0}, sentiment=VADER).parts()) == ["sentiment"]


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"sentiment": VADER | {"normalise": True}}, "sentiment"),
        ({"length": LENGTH, "preference": {"weight": 1.0, "model": ELSEWHERE}}, "preference"),  # by itself
        ({"length": LENGTH, "plugins": [PLUGIN | {"normalise": True}]}, "letters"),
        ({"length": LENGTH, "plugins": [PLUGIN]}, "letters"),  # it is checked on the responses
    ],
)
def test_what_is_measured_on_responses_needs_the_calibration(parts: Parts, name: str) -> None:
    said = f"{name} is measured on responses, so the section reward.calibration is needed"
    with pytest.raises(ValidationError, match=said):
        config(**parts)
    config(**parts, calibration=CALIBRATION)


def test_a_part_of_weight_0_needs_no_calibration() -> None:
    assert config(length=LENGTH, sentiment=VADER | {"weight": 0.0, "normalise": True}).calibration is None
    assert config(length=LENGTH, plugins=[PLUGIN | {"weight": 0.0}]).calibration is None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param(["length"], "'length' belongs to a part that the reward already has", id="bad-77-built-in"),
        pytest.param(["Perplexity"], "'Perplexity' belongs to a part", id="bad-77-built-in-by-case"),
        pytest.param(["mine", "mine"], "'mine' belongs to the plug-in of plugins/letters.py", id="bad-77-twice"),
    ],
)
def test_a_plugin_with_the_name_of_another_part_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(repetition=REPETITION, plugins=[PLUGIN | {"name": name} for name in names])


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


def test_spec_with_an_unknown_key_is_refused(save: Save) -> None:
    file = save(length=LENGTH) / "reward.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"extra": 1}))
    with pytest.raises(InputError, match="not a reward"):
        load_spec(file.parent)


def test_missing_classifier_is_refused(save: Save) -> None:
    folder = save(sentiment=SENTIMENT)
    (folder / "classifier").unlink()
    with pytest.raises(InputError, match="no such model folder"):
        load_sentiment_part(folder, "float32")


def test_a_plugin_that_changed_since_the_folder_was_made_is_refused(save: Save, places: Any) -> None:
    folder = save(plugins=[PLUGIN], calibration=CALIBRATION)
    (folder / "plugins" / "letters.py").write_text(PLUGIN_SOURCE + "# changed\n")
    with pytest.raises(InputError, match=r"reward\.plugins letters: SHA-256 of"):
        load_reward(folder, *places)
