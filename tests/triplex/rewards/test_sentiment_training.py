import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from triplex.models.loading import load_classifier
from triplex.models.optim import OptimConfig
from triplex.models.saving import save_model
from triplex.models.sources import FolderConfig
from triplex.rewards.sentiment import ClassifierSentiment, SentimentConfig, TrainedClassifier, Vader
from triplex.rewards.sentiment_training import labelled, make_classifier, measure_accuracy
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree
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


def config(model: Any) -> SentimentConfig:
    return SentimentConfig(weight=1.0, form="probability", model=model)


def trained(num_examples: int = 160) -> SentimentConfig:
    optim = OptimConfig(
        num_epochs=6, batch_size=16, learning_rate=1e-2, warmup_frac=0.1, weight_decay=0.0, max_grad_norm=1.0,
        checkpoint_every=1000,
    )  # fmt: skip
    return config(TrainedClassifier(kind="train", num_examples=num_examples, optim=optim))


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
    made = make_classifier(trained(), "float32", base, rows(160, seed=0), run(tmp_path_factory.mktemp("state")))
    assert made is not None
    return made


def test_classifier_learns_what_the_labels_mean(classifier: tuple[Any, Any]) -> None:
    accuracy = measure_accuracy(classifier, rows(100, seed=1))
    assert accuracy is not None
    assert accuracy >= 0.97
    good, bad = ClassifierSentiment(*classifier)(["The lamp is"] * 2, [" good.", " bad."], [[]] * 2)
    assert good > 0.9
    assert bad < 0.1


def test_equal_runs_make_equal_classifiers(base: Path, classifier: tuple[Any, Any], tmp_path: Path) -> None:
    torch.rand(10)
    again = make_classifier(trained(), "float32", base, rows(160, seed=0), run(tmp_path))
    assert again is not None
    for one, other in zip(classifier[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_one_that_was_trained_before_a_kill_is_saved_alike(base: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):  # the second finds the last checkpoint, and nothing left to train
        made = make_classifier(trained(), "float32", base, rows(160, seed=0), run(tmp_path / "state"))
        assert made is not None
        measure_accuracy(made, rows(20, seed=1))  # as the stage does: a tokenizer saves how it last cut
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
    given = FolderConfig(kind="folder", path=str(tmp_path / "swapped"), sha256=sha256_tree(tmp_path / "swapped"))
    swapped = make_classifier(config(given), "float32", tmp_path, [], run(tmp_path))
    assert swapped is not None
    texts = ["The lamp is good.", "The lamp is bad."]
    expected = ClassifierSentiment(*classifier).probabilities(texts)
    assert expected[0] > 0.9
    assert ClassifierSentiment(*swapped).probabilities(texts) == pytest.approx(expected, abs=1e-6)
    assert measure_accuracy(swapped, rows(100, seed=1)) == measure_accuracy(classifier, rows(100, seed=1))


def test_given_classifier_is_taken_as_it_is(classifier: tuple[Any, Any], base: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "c", *classifier)
    given = FolderConfig(kind="folder", path=str(tmp_path / "c"), sha256=sha256_tree(tmp_path / "c"))
    loaded = make_classifier(config(given), "float32", base, [], run(tmp_path))
    assert loaded is not None
    texts = ["The lamp is good.", "The lamp is bad."]
    assert ClassifierSentiment(*loaded).probabilities(texts) == ClassifierSentiment(*classifier).probabilities(texts)


def test_vader_needs_no_model(base: Path, tmp_path: Path) -> None:
    assert make_classifier(config(Vader(kind="vader")), "float32", base, [], run(tmp_path)) is None


def test_rows_without_a_label_are_left_out() -> None:
    row = {"prompt": "The lamp", "completion": " is good."}
    assert labelled([row | {"label": 1}, row | {"label": None}]) == [("The lamp is good.", 1)]


@pytest.mark.parametrize("label", [None, 0, 1])
def test_one_label_teaches_nothing(base: Path, tmp_path: Path, label: int | None) -> None:
    some = [row | {"label": label} for row in rows(10, seed=0)]
    with pytest.raises(InputError, match=r"fewer than two different labels.*\n.*name the label column"):
        make_classifier(trained(), "float32", base, some, run(tmp_path))


def test_num_examples_bounds_the_rows(base: Path, tmp_path: Path) -> None:
    sorted_by_label = sorted(rows(10, seed=0), key=lambda row: row["label"])
    with pytest.raises(InputError, match="4 labelled rows, with fewer than two"):
        make_classifier(trained(num_examples=4), "float32", base, sorted_by_label, run(tmp_path))


def test_accuracy_by_hand() -> None:
    texts = {" good.": 1, " great.": 0, " bad.": 0, " horrible.": 0}
    some = [{"prompt": "It is", "completion": text, "label": label} for text, label in texts.items()]
    assert measure_accuracy(None, some) == 0.75
    assert measure_accuracy(None, [row | {"label": None} for row in some]) is None
