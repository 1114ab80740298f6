import json
import random
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from triplex.data.splits import group_key, hash_fraction
from triplex.models.loading import load_classifier
from triplex.models.optim import OptimConfig
from triplex.models.saving import save_model
from triplex.models.sources import FolderConfig
from triplex.rewards.preference import PreferenceConfig, PreferenceReward, TrainedPreference
from triplex.rewards.preference_pairs import held_out
from triplex.rewards.preference_training import pairwise_accuracy, train_preference_model
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_tree
from triplex.runs.stage import Run

Row = dict[str, str]


def rows(num: int) -> list[Row]:
    """Pairs of which the chosen side has the word bright and the rejected one does not."""
    drawn = random.Random(0)
    made = []
    for index in range(num):
        prompt = f"The {drawn.choice(['tea', 'lamp', 'chair', 'book'])} of week {index // 2} is"
        ends = [".", "!", " and I like it.", " after a week."]
        chosen, rejected = (f" {word}{drawn.choice(ends)}" for word in ("bright", drawn.choice(["small", "cool"])))
        made.append({"id": f"{index:04}", "prompt": prompt, "chosen": chosen, "rejected": rejected})
    return made


def configured(**changes: Any) -> PreferenceConfig:
    optim = OptimConfig(
        num_epochs=4, batch_size=16, learning_rate=5e-3, warmup_frac=0.1, weight_decay=0.0, max_grad_norm=1.0,
        checkpoint_every=1000,
    )  # fmt: skip
    values = {"kind": "train", "num_pairs": 200, "max_tokens": 48, "holdout_frac": 0.2, "optim": optim} | changes
    return PreferenceConfig(weight=1.0, model=TrainedPreference(**values))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("models") / "base"
    save_model(folder, tiny_lm(), tiny_tokenizer)
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return train_preference_model(configured(), "float32", base, rows(200), new_run(tmp_path_factory.mktemp("state")))


def new_run(state: Path) -> Run:
    return Run("reward", 5, state)


def test_it_learns_what_is_preferred(trained: tuple[Any, Any]) -> None:
    _, unseen = held_out(configured(), rows(200))
    assert len(unseen) > 20
    accuracy = pairwise_accuracy(*trained, unseen)
    assert accuracy is not None
    assert accuracy > 0.9


def test_it_learns_from_the_end_of_long_texts(base: Path, tmp_path: Path) -> None:
    """What stands in the prompt fills max_tokens alone; cut at the end, the sides of a pair would be equal."""
    some = [row | {"prompt": row["prompt"] + " so" * 60} for row in rows(120)]
    made = train_preference_model(configured(num_pairs=120), "float32", base, some, new_run(tmp_path))
    accuracy = pairwise_accuracy(*made, held_out(configured(num_pairs=120), some)[1])
    assert accuracy is not None
    assert accuracy > 0.9


def test_swapped_sides_are_right_where_the_others_were_wrong(trained: tuple[Any, Any]) -> None:
    pairs: list[Any] = rows(40)
    for row in pairs[:9]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    accuracy, other = pairwise_accuracy(*trained, pairs), pairwise_accuracy(*trained, swapped)
    assert accuracy == pytest.approx(31 / 40, abs=0.05)
    assert other == pytest.approx(1 - accuracy)


def test_ties_count_half_and_no_pairs_nothing(trained: tuple[Any, Any]) -> None:
    tie = {"prompt": "The lamp is", "chosen": " bright.", "rejected": " bright."}
    assert pairwise_accuracy(*trained, [tie]) == 0.5
    assert pairwise_accuracy(*trained, []) is None


def test_equal_runs_make_equal_folders(base: Path, trained: tuple[Any, Any], tmp_path: Path) -> None:
    torch.rand(10)  # what ran before does not matter, to the head neither
    again = train_preference_model(configured(), "float32", base, rows(200), new_run(tmp_path / "state"))
    for name, made in (("one", trained), ("two", again)):
        pairwise_accuracy(*made, rows(3))
        save_model(tmp_path / name, *made)
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")


def test_checkpoints_lie_apart_from_those_of_the_classifier(base: Path, tmp_path: Path) -> None:
    train_preference_model(configured(num_pairs=20), "float32", base, rows(20), new_run(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["preference"]


def test_it_survives_its_folder(trained: tuple[Any, Any], tmp_path: Path) -> None:
    """The cut with it: texts of more than 48 tokens are among them."""
    save_model(tmp_path / "p", *trained)
    model, tokenizer = load_classifier(tmp_path / "p")
    assert (tokenizer.model_max_length, tokenizer.truncation_side) == (48, "left")
    texts = [row["prompt"] * (i + 1) + row["chosen"] for i, row in enumerate(rows(20))]
    assert PreferenceReward(model, tokenizer).logits(texts) == PreferenceReward(*trained).logits(texts)


def test_a_given_model_saw_no_pair(trained: tuple[Any, Any], tmp_path: Path) -> None:
    save_model(tmp_path / "p", *trained)
    given = FolderConfig(kind="folder", path=str(tmp_path / "p"), sha256=sha256_tree(tmp_path / "p"))
    config = PreferenceConfig(weight=1.0, model=given)
    tie = {"id": "1", "prompt": "a", "chosen": " b", "rejected": " b"}
    assert held_out(config, [*rows(5), tie]) == ([], rows(5))


def test_given_model_with_two_labels_is_refused_without_pairs(base: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    save_model(tmp_path / "p", AutoModelForSequenceClassification.from_pretrained(base, num_labels=2), tiny_tokenizer)
    with pytest.raises(InputError, match="has 2 labels"):
        pairwise_accuracy(*load_classifier(tmp_path / "p"), [])


def test_no_prompt_is_on_both_sides_whatever_its_case_and_spacing() -> None:
    some = [
        row | {"prompt": row["prompt"].upper() + " " * (i % 3)} if i % 2 else row for i, row in enumerate(rows(300))
    ]
    train, unseen = held_out(configured(num_pairs=300), some)
    prompts = [{group_key(row["prompt"]) for row in side} for side in (train, unseen)]
    assert not prompts[0] & prompts[1]
    assert sorted(row["id"] for row in [*train, *unseen]) == [row["id"] for row in some]
    assert len(prompts[1]) == pytest.approx(0.2 * (len(prompts[0]) + len(prompts[1])), rel=0.3)


def test_pairs_are_held_out_though_the_evaluation_prompts_are_gone() -> None:
    """The split of the data takes the prompts of the lowest hashes away; it must not take the held-out pairs."""
    left = [row for row in rows(600) if hash_fraction(group_key(row["prompt"])) >= 0.2]
    _, unseen = held_out(configured(num_pairs=600), left)
    assert len(unseen) / len(left) == pytest.approx(0.2, abs=0.05)


def test_num_pairs_takes_the_first() -> None:
    train, unseen = held_out(configured(num_pairs=30), rows(200))
    assert sorted(row["id"] for row in [*train, *unseen]) == [row["id"] for row in rows(30)]


def test_equal_sides_are_left_out_and_told(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input 25."""
    some = rows(30)
    for row in some[:4]:
        row["rejected"] = row["chosen"]
    train, unseen = held_out(configured(), some)
    assert sorted(row["id"] for row in [*train, *unseen]) == [row["id"] for row in some[4:]]
    train_preference_model(configured(), "float32", base, some, new_run(tmp_path))
    assert "reward: warning: 4 pairs have equal sides and are left out\n" in capsys.readouterr().out


def test_pairs_that_are_cut_are_told(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = rows(30)
    train, _ = held_out(configured(), some)
    for row in train[:3]:
        row["rejected"] += " small" * 60
    for side in ("chosen", "rejected"):  # both of one pair
        train[3][side] += " cool" * 60
    train_preference_model(configured(), "float32", base, some, new_run(tmp_path))
    assert "reward: warning: 4 pairs are above 48 tokens and lose their beginning\n" in capsys.readouterr().out


def test_nothing_is_told_when_nothing_is_wrong(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_preference_model(configured(num_pairs=20), "float32", base, rows(20), new_run(tmp_path))
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("text", ["", " \n"])
def test_blank_texts_are_refused(name: str, text: str) -> None:
    some = rows(10)
    some[3][name] = text
    with pytest.raises(InputError, match=rf"preferences.parquet row 3: {name} is blank"):
        held_out(configured(), some)


@pytest.mark.parametrize(
    ("some", "holdout_frac", "sides"),
    [
        pytest.param([], 0.2, "0 training and 0 held-out", id="no-pairs"),
        pytest.param(
            [row | {"rejected": row["chosen"]} for row in rows(8)],
            0.2,
            "0 training and 0 held-out",
            id="bad-25-equal-pairs",
        ),
        pytest.param(rows(8), 0.001, "8 training and 0 held-out", id="all-train"),
        pytest.param(rows(8), 0.999, "0 training and 8 held-out", id="all-held-out"),
    ],
)
def test_pairs_on_both_sides_are_needed(some: list[Row], holdout_frac: float, sides: str) -> None:
    where = f"from {len(some)} rows of {len({row['prompt'] for row in some})} prompts"
    with pytest.raises(InputError, match=rf"{sides} pairs that differ, {where}\n  remedy: give pairs of more prompts"):
        held_out(configured(holdout_frac=holdout_frac), some)


def test_max_tokens_beyond_the_positions_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_tokens = 65: the base model has 64 positions\n  remedy: lower it to 64"):
        train_preference_model(configured(max_tokens=65), "float32", base, rows(20), new_run(tmp_path))


def test_dropout_is_off_and_a_kill_changes_nothing(base: Path, tmp_path: Path) -> None:
    """The second start goes on from the checkpoint of step 9 of 12."""
    dropping = tmp_path / "base"
    copytree(base, dropping)
    config = json.loads((dropping / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps(config | {"resid_pdrop": 0.5, "embd_pdrop": 0.5}))
    optim = configured().model.optim.model_copy(update={"checkpoint_every": 9, "batch_size": 6})  # type: ignore[union-attr]
    few = configured(num_pairs=20, optim=optim)
    made = [
        train_preference_model(few, "float32", folder, rows(20), new_run(tmp_path / state))[0].state_dict()
        for folder, state in ((base, "one"), (dropping, "two"), (dropping, "two"))
    ]
    assert (tmp_path / "two/preference/step-000009").is_dir()
    for other in made[1:]:
        assert all(torch.equal(made[0][name], other[name]) for name in other)
