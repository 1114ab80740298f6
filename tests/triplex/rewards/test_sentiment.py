from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification

from triplex.models.saving import save_model
from triplex.rewards.sentiment import (
    ClassifierSentiment,
    GradedSentiment,
    SentimentConfig,
    VaderSentiment,
    load_sentiment,
)
from triplex.runs.errors import InputError

Build = Callable[..., tuple[Any, Any]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Build:
    """`build(*names)`: a classifier with these labels and a large random head, equal for an equal number of labels."""
    folder: Path = tmp_path_factory.mktemp("models") / "base"
    save_model(folder, tiny_lm(), tiny_tokenizer)

    def made(*names: str) -> tuple[Any, Any]:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names)).eval()
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: index for index, name in enumerate(names)}
        model.config.pad_token_id = tiny_tokenizer.pad_token_id
        torch.manual_seed(0)
        torch.nn.init.normal_(model.score.weight, std=0.5)
        return model, tiny_tokenizer

    return made


def probabilities(classifier: tuple[Any, Any], text: str) -> list[float]:
    """Of each label, from the state at the text's last token."""
    model, tokenizer = classifier
    with torch.no_grad():
        hidden = model.transformer(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0, -1]
    found: list[float] = (model.score.weight @ hidden).softmax(0).tolist()
    return found


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (("negative", "positive"), 1),
        (("positive", "negative"), 0),
        (("POSITIVE", "NEGATIVE"), 0),
        (("Neg", "Pos"), 1),
        (("pos", "neg"), 0),
        (("LABEL_0", "LABEL_1"), 1),
        (("1", "0"), 0),
        (("True", "False"), 0),
        (("negative", "neutral", "positive"), 2),
        (("positive", "neutral", "negative"), 0),
        (("LABEL_1", "positive", "LABEL_0"), 1),
        (("joy", "positive", "anger", "fear"), 1),
    ],
)
def test_the_positive_label_is_found_by_its_name(build: Build, names: tuple[str, ...], positive: int) -> None:
    classifier = build(*names)
    each = probabilities(classifier, "The lamp is good.")
    assert min(abs(p - each[positive]) for i, p in enumerate(each) if i != positive) > 1e-4
    found = ClassifierSentiment(*classifier)(["The lamp"], [" is good."], [[]])
    assert found == pytest.approx([each[positive]], abs=1e-6)


@pytest.mark.parametrize(
    ("names", "num"),
    [
        pytest.param(("positive",), "1 of its 1 labels", id="bad-62-one-label"),
        pytest.param(("LABEL_0",), "0 of its 1 labels", id="bad-62-one-unnamed-label"),
        pytest.param(("ham", "spam"), "0 of its 2 labels", id="bad-62-other-names"),
        pytest.param(("positive", "pos"), "2 of its 2 labels", id="bad-62-two-positive"),
        pytest.param(("LABEL_0", "LABEL_1", "LABEL_2"), "0 of its 3 labels", id="bad-62-the-middle-of-three"),
        pytest.param(("1 star", "2 stars", "3 stars", "4 stars", "5 stars"), "0 of its 5 labels", id="bad-62-stars"),
    ],
)
def test_a_classifier_that_does_not_say_what_is_positive_is_refused(
    build: Build, names: tuple[str, ...], num: str
) -> None:
    with pytest.raises(InputError, match=rf"{num} are called positive.*\n  remedy: name one"):
        ClassifierSentiment(*build(*names))


def test_graded_by_hand() -> None:
    def probability(
        prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **columns: Any
    ) -> list[float | None]:
        return columns["given"]

    given = [1.0, 0.75, 0.5, 0.49, 0.25, 0.0, None]
    found = GradedSentiment(probability)(["p"] * 7, ["c"] * 7, [[]] * 7, given=given)
    assert found[:-1] == pytest.approx([2.0, 1.5, 0.0, -0.255, -0.375, -0.5])
    assert found[-1] is None


def test_graded_form_of_a_classifier_with_positive_at_0(build: Build) -> None:
    """A good text must not be paid as a bad one because of the order of the labels."""
    classifier = build("positive", "negative")
    texts = [" is good.", " broke after a week", "!", " is bright and it was cheap", "; I want my money back", " tea"]
    positive = [probabilities(classifier, f"The lamp{text}")[0] for text in texts]
    assert min(positive) < 0.5 < max(positive)
    expected = [2.0 * p if p >= 0.5 else -0.5 * (1 - p) for p in positive]
    found = GradedSentiment(ClassifierSentiment(*classifier))(["The lamp"] * 6, texts, [[]] * 6)
    assert found == pytest.approx(expected, abs=1e-5)


def test_vader_values() -> None:
    """The compound scores that VADER's authors print for these sentences, from [-1, 1] to [0, 1]."""
    published = {
        "VADER is smart, handsome, and funny.": 0.8316,
        "VADER is VERY SMART, handsome, and FUNNY!!!": 0.9342,
        "The book was good.": 0.4404,
        "At least it isn't a horrible book.": 0.431,
        "Today SUX!": -0.5461,
        "": 0.0,
    }
    found = VaderSentiment()([""] * len(published), list(published), [[]] * len(published))
    assert found == pytest.approx([(compound + 1) / 2 for compound in published.values()])


def test_vader_reads_prompt_and_completion() -> None:
    vader = VaderSentiment()
    assert vader(["The book"], [" was good."], [[]]) == vader([""], ["The book was good."], [[]])


def test_the_sentiment_of_a_section(build: Build, tmp_path: Path) -> None:
    """VADER needs no folder; a classifier is the one in the folder, whatever its form."""
    values = {"weight": 1.0, "form": "graded", "model": {"kind": "vader"}}
    found = load_sentiment(SentimentConfig.model_validate(values), tmp_path / "nowhere", "float32")
    assert found(["The book"], [" was good."], [[]]) == pytest.approx([(0.4404 + 1) / 2])
    classifier = build("positive", "negative")
    save_model(tmp_path / "classifier", *classifier)
    values["model"] = {"kind": "folder", "path": "elsewhere", "sha256": "0"}
    loaded = load_sentiment(SentimentConfig.model_validate(values), tmp_path / "classifier", "float32")
    expected = probabilities(classifier, "The book was good.")[0]
    assert loaded(["The book"], [" was good."], [[]]) == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"form": "grade"}, "'probability' or 'graded'", id="bad-36-form"),
        pytest.param({"model": {"kind": "vadr"}}, "'train', 'folder', 'hub', 'vader'", id="bad-36-kind"),
    ],
)
def test_impossible_sections_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SentimentConfig.model_validate({"weight": 1.0, "form": "probability", "model": {"kind": "vader"}} | change)
