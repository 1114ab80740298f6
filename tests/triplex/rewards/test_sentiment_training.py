import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from triplex.models.loading import load_classifier
from triplex.models.optim import OptimConfig
from triplex.models.saving import save_model
from triplex.rewards.sentiment import ClassifierSentiment, TrainedClassifier
from triplex.rewards.sentiment_training import labelled, measure_accuracy, train_classifier
from triplex.runs.errors import InputError
from triplex.runs.stage import Run

WORDS = {1: ["good", "great", "bright", "cheap"], 0: ["bad", "broke", "small", "back"]}
Row = dict[str, Any]


def rows(num: int, seed: int) -> list[Row]:
    """Reviews of which one word says whether they are positive."""
    drawn = random.Random(seed)
    made = []
    for index in range(num):
        label = index % 2
        prompt = f"The {drawn.choice(['tea', 'lamp', 'chair', 'book'])} is"
        completion = f" {drawn.choice(WORDS[label])}" + drawn.choice([".", "!", " and I like it.", " after a week."])
        made.append({"prompt": prompt, "completion": completion, "label": label})
    return made


def trained(num_examples: int = 160) -> TrainedClassifier:
    optim = OptimConfig(
        num_epochs=8, batch_size=16, learning_rate=1e-2, warmup_frac=0.1, weight_decay=0.0, max_grad_norm=1.0,
        checkpoint_every=1000,
    )  # fmt: skip
    return TrainedClassifier(kind="train", num_examples=num_examples, optim=optim)


def run(state: Path) -> Run:
    torch.manual_seed(5)
    return Run("reward", 5, state)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("models") / "base"
    save_model(folder, tiny_lm(), tiny_tokenizer)
    return folder


@pytest.fixture(scope="module")
def classifier(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return train_classifier(trained(), "float32", base, rows(160, seed=0), run(tmp_path_factory.mktemp("state")))


def test_classifier_learns_what_the_labels_mean(classifier: tuple[Any, Any]) -> None:
    accuracy = measure_accuracy(classifier, rows(100, seed=1))
    assert accuracy is not None
    assert accuracy >= 0.97
    good, bad = ClassifierSentiment(*classifier)(["The lamp is"] * 2, [" good.", " bad."], [[]] * 2)
    assert good > 0.9
    assert bad < 0.1


def test_equal_runs_make_equal_classifiers(base: Path, classifier: tuple[Any, Any], tmp_path: Path) -> None:
    torch.rand(10)
    again = train_classifier(trained(), "float32", base, rows(160, seed=0), run(tmp_path))
    for one, other in zip(classifier[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_one_that_was_trained_before_a_kill_is_saved_alike(base: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):  # the second finds the last checkpoint, and nothing left to train
        made = train_classifier(trained(), "float32", base, rows(160, seed=0), run(tmp_path / "state"))
        save_model(tmp_path / name, *made)
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("first", "again"))
    assert one == other


def test_classifier_survives_its_folder(classifier: tuple[Any, Any], tmp_path: Path) -> None:
    save_model(tmp_path / "c", *classifier)
    model, tokenizer = load_classifier(tmp_path / "c")
    assert model.config.id2label == {0: "negative", 1: "positive"}
    texts = [row["prompt"] + row["completion"] for row in rows(20, seed=2)]
    loaded = ClassifierSentiment(model, tokenizer).probabilities(texts)
    assert loaded == ClassifierSentiment(*classifier).probabilities(texts)


def test_a_trained_classifier_whose_labels_are_swapped_says_the_same(
    classifier: tuple[Any, Any], tmp_path: Path
) -> None:
    """Positive at 0, the head's rows exchanged with the names: the same model, as many on the hub have it."""
    save_model(tmp_path / "c", *classifier)
    model, tokenizer = load_classifier(tmp_path / "c")
    model.score.weight.data = model.score.weight.data.flip(0)
    model.config.id2label, model.config.label2id = {0: "POSITIVE", 1: "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    save_model(tmp_path / "swapped", model, tokenizer)
    swapped = load_classifier(tmp_path / "swapped")
    texts = ["The lamp is good.", "The lamp is bad."]
    expected = ClassifierSentiment(*classifier).probabilities(texts)
    assert expected[0] > 0.9
    assert ClassifierSentiment(*swapped).probabilities(texts) == pytest.approx(expected, abs=1e-6)
    assert measure_accuracy(swapped, rows(100, seed=1)) == measure_accuracy(classifier, rows(100, seed=1))


def test_rows_without_a_label_are_left_out() -> None:
    row = {"prompt": "The lamp", "completion": " is good."}
    assert labelled([row | {"label": 1}, row | {"label": None}]) == [("The lamp is good.", 1)]


@pytest.mark.parametrize("label", [None, 0, 1])
def test_one_label_teaches_nothing(base: Path, tmp_path: Path, label: int | None) -> None:
    some = [row | {"label": label} for row in rows(10, seed=0)]
    with pytest.raises(InputError, match=r"fewer than two different labels.*\n.*name the label column"):
        train_classifier(trained(), "float32", base, some, run(tmp_path))


def test_num_examples_bounds_the_rows(base: Path, tmp_path: Path) -> None:
    sorted_by_label = sorted(rows(10, seed=0), key=lambda row: row["label"])
    with pytest.raises(InputError, match="4 labelled rows, with fewer than two"):
        train_classifier(trained(num_examples=4), "float32", base, sorted_by_label, run(tmp_path))


def test_accuracy_by_hand() -> None:
    texts = {" good.": 1, " great.": 0, " bad.": 0, " horrible.": 0}
    some = [{"prompt": "It is", "completion": text, "label": label} for text, label in texts.items()]
    assert measure_accuracy(None, some) == 0.75
    assert measure_accuracy(None, [row | {"label": None} for row in some]) is None
