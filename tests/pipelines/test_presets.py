import dataclasses
import re
import warnings
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from trl import GRPOConfig

from pipelines.overrides import Change, differences, leaves, parse, write_document
from pipelines.presets import descriptions, with_preset
from tests.pipelines.conftest import PARAMS, ROOT, run_pipelines
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml, parse_yaml

PROFILES = {  # by the algorithm whose numbers they hold
    "ziegler2019": "ppo",
    "trl-ppo": "ppo",
    "openrlhf-ppo": "ppo",
    "verl-ppo": "ppo",
    "classic": "ppo",
    "trl-grpo": "grpo",
}


@pytest.fixture
def presets(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small project's presets, and the project as the working directory."""
    monkeypatch.chdir(toy)
    Path("presets").mkdir()
    Path("presets/quick.yaml").write_text("# A quick look.\n" + PARAMS.replace("seed: 1", "seed: 2"))
    Path("presets/files.yaml").write_text("# Your own files.\n" + PARAMS.replace("a.txt", "DATA_DIR/a.txt"))
    Path("presets/slow.yaml").write_text("# A profile.\ngrpo:   # slower\n  learning_rate: 1e-9\n\n# the end\n")


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's params.yaml, with the project's stages and presets around it."""
    monkeypatch.chdir(ROOT)
    copy = tmp_path / "params.yaml"
    copy.write_bytes(Path("params.yaml").read_bytes())
    return copy


def written(name: str, path: Path, data: Path | None = None) -> str:
    """The text of the params file `path` after preset `name`; the stages' models have read it."""
    write_document(*with_preset(name, data, path=path), path)
    return path.read_text()


@pytest.fixture(scope="module")
def over_default(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """`over_default("trl-ppo")`: the text of the project's params.yaml after that preset, which is written once."""

    @cache
    def text(name: str) -> str:
        copy = tmp_path_factory.mktemp(name) / "params.yaml"
        copy.write_bytes((ROOT / "params.yaml").read_bytes())
        with chdir(ROOT):
            return written(name, copy)

    return text


def blocks(text: str) -> dict[str, str]:
    """What stands before the first section, under "", and each section with what follows it."""
    first, *others = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    return {"": first} | {block.partition(":")[0]: block for block in others}


@pytest.mark.usefixtures("presets")
def test_the_first_comment_describes() -> None:
    assert descriptions() == {"files": "Your own files.", "quick": "A quick look.", "slow": "A profile."}


@pytest.mark.usefixtures("presets")
def test_a_file_of_all_sections_replaces_them_all() -> None:
    document, _ = with_preset("quick", None)
    assert differences(load_yaml(Path("params.yaml")), document) == [Change("seed", 1, 2)]


@pytest.mark.usefixtures("presets")
def test_a_section_is_replaced_and_not_merged() -> None:
    Path("presets/slow.yaml").write_text("# A profile.\nppo: {learning_rate: 1e-9, clip: 0.2}\n")
    document, _ = with_preset("slow", None)
    assert document["ppo"] == {"learning_rate": 1e-9, "clip": 0.2}
    assert differences(load_yaml(Path("params.yaml")), document) == [
        Change("ppo.learning_rate", 1e-5, 1e-9),
        Change("ppo.clip", None, 0.2),
        Change("ppo.betas.0", 0.9, None),
        Change("ppo.betas.1", 0.95, None),
    ]


@pytest.mark.usefixtures("presets")
def test_other_sections_keep_every_character() -> None:
    assert written("slow", Path("params.yaml")) == PARAMS.replace(
        "grpo: {learning_rate: 2e-5}\n", "grpo:   # slower\n  learning_rate: 1e-9\n"
    )


@pytest.mark.usefixtures("presets")
def test_what_stands_between_the_sections_stays() -> None:
    text = "# of a user\n\ngrpo:\n  learning_rate: 3  # once\n\n  # below\n\n# about the seed\nseed: 1\n# the end\n"
    Path("params.yaml").write_text(text)
    assert written("slow", Path("params.yaml")) == (
        "# of a user\n\ngrpo:   # slower\n  learning_rate: 1e-9\n\n# about the seed\nseed: 1\n# the end\n"
    )


@pytest.mark.usefixtures("presets")
def test_a_section_that_params_yaml_does_not_have_comes_last() -> None:
    Path("params.yaml").write_text("seed: 1   # of every draw\n")
    assert written("slow", Path("params.yaml")) == (
        "seed: 1   # of every draw\n\ngrpo:   # slower\n  learning_rate: 1e-9\n"
    )


@pytest.mark.usefixtures("presets")
def test_the_order_of_the_preset_does_not_matter() -> None:
    Path("presets/slow.yaml").write_text("# A profile.\ngrpo: 5\nseed: 3\n")
    document, _ = with_preset("slow", None)
    assert list(document) == ["seed", "ppo", "grpo", "data"]
    assert differences(load_yaml(Path("params.yaml")), document) == [
        Change("seed", 1, 3), Change("grpo", None, 5), Change("grpo.learning_rate", 2e-5, None),
    ]  # fmt: skip


@pytest.mark.usefixtures("presets")
def test_the_command_shows_the_difference_and_writes(tmp_path: Path) -> None:
    folder = tmp_path / "my: data #1"
    folder.mkdir()
    done = run_pipelines(Path(), "preset", "files", "--data", str(folder))
    assert done.returncode == 0, done.stderr
    assert "data.paths.0" in done.stdout
    assert load_yaml(Path("params.yaml"))["data"]["paths"] == [f"{folder}/a.txt", "b.txt"]
    document, _ = with_preset("files", folder)
    assert differences(load_yaml(Path("params.yaml")), document) == []
    assert "# of Adam" in Path("params.yaml").read_text()


@pytest.mark.usefixtures("presets")
def test_the_command_lists() -> None:
    done = run_pipelines(Path(), "preset")
    assert done.returncode == 0
    assert [line.split(maxsplit=1) for line in map(str.strip, done.stdout.splitlines())][1:] == [
        ["files", "Your own files."],
        ["quick", "A quick look."],
        ["slow", "A profile."],
    ]


@pytest.mark.usefixtures("presets")
@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("quik", None, "did you mean 'quick'"),
        ("files", None, "--data FOLDER"),
        ("files", Path("nowhere"), "no such folder"),
        ("quick", Path(), "leave --data out"),
    ],
)
def test_mistakes(name: str, data: Path | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_preset(name, data)


@pytest.mark.parametrize("name", sorted({*descriptions(ROOT / "presets")} - {"llama3-8b-unsloth"}))
def test_the_stages_read_what_a_preset_makes_of_the_default(
    name: str, default: Path, tmp_path: Path, over_default: Callable[[str], str]
) -> None:
    if "DATA_DIR" in Path(f"presets/{name}.yaml").read_text():
        made, layout = with_preset(name, tmp_path, path=default)
        # the files are not here: tests/pipelines/test_preset_runs.py runs it on others
        with pytest.raises(InputError, match=rf"left as it was: {tmp_path}/.*: no such file"):
            write_document(made, layout, default)
    else:
        made = parse_yaml(over_default(name))
    preset = load_yaml(Path(f"presets/{name}.yaml"))
    assert {key: made[key] for key in preset if key != "data"} == {k: v for k, v in preset.items() if k != "data"}
    assert list(made) == list(load_yaml(Path("params.yaml")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
def test_a_preset_for_another_machine_is_refused_in_a_line(default: Path) -> None:
    with pytest.raises(InputError, match=r"left as it was: .*there is no CUDA GPU") as caught:
        written("llama3-8b-unsloth", default)
    assert len(str(caught.value).splitlines()) == 2  # with the remedy
    assert default.read_bytes() == Path("params.yaml").read_bytes()


def test_every_profile_is_here() -> None:
    holds_data = [name for name in descriptions(ROOT / "presets") if "data" in load_yaml(ROOT / f"presets/{name}.yaml")]
    assert {*PROFILES, *holds_data, "kl-study"} == set(descriptions(ROOT / "presets"))


def test_default_is_params_yaml_word_for_word() -> None:
    ours, preset = ((ROOT / name).read_text().partition("seed:") for name in ("params.yaml", "presets/default.yaml"))
    assert ours[1:] == preset[1:]


def test_the_study_of_kl_is_the_default_at_a_fixed_coefficient() -> None:
    default, study = (load_yaml(ROOT / f"presets/{name}.yaml") for name in ("default", "kl-study"))
    fixed = {"kl_coef": 0.1, "kl_control": {"kind": "fixed"}}
    assert study == {"algorithms": default["algorithms"], "train": default["train"] | fixed}


@pytest.mark.parametrize(("name", "algorithm"), PROFILES.items())
def test_a_profile_changes_its_algorithm_alone(
    name: str, algorithm: str, default: Path, over_default: Callable[[str], str]
) -> None:
    assert list(load_yaml(Path(f"presets/{name}.yaml"))) == ["algorithms", "train", algorithm]
    before = blocks(default.read_text())
    after = blocks(over_default(name))
    assert list(after) == list(before)
    assert {key for key in after if after[key] != before[key]} <= {"algorithms", "train", algorithm}
    assert after["train"] != before["train"]


@pytest.mark.parametrize(("name", "algorithm"), PROFILES.items())
def test_a_profile_trains_its_algorithm_and_a_partner_on_whole_batches(
    name: str, algorithm: str, over_default: Callable[[str], str]
) -> None:
    params = parse_yaml(over_default(name))
    assert algorithm in params["algorithms"]
    for trained in params["algorithms"]:
        for divisor in (params[trained].get("group_size", 1), params[trained]["num_minibatches"]):
            assert params["train"]["batch_size"] % divisor == 0


def test_one_profile_after_another_leaves_nothing_of_the_first(
    default: Path, over_default: Callable[[str], str]
) -> None:
    default.write_text(over_default("verl-ppo"))
    assert written("ziegler2019", default) == over_default("ziegler2019")


def test_ziegler_counts_nats_by_the_sequence_and_the_others_hold_their_coefficient() -> None:
    controls = {name: load_yaml(ROOT / f"presets/{name}.yaml")["train"]["kl_control"] for name in PROFILES}
    ziegler = controls.pop("ziegler2019")
    assert (ziegler["kind"], ziegler["target"], ziegler["unit"], ziegler["horizon"]) == (
        "proportional", 6.0, "sequence", 10000,
    )  # fmt: skip
    assert {control["kind"] for control in controls.values()} == {"fixed"}


def trl_defaults(config: Any) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(config)}


def trl_source(path: str) -> str:
    return (Path(trl.__file__).parent / path).read_text(encoding="utf-8")


def test_trl_ppo_holds_the_defaults_of_the_installed_trl() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        from trl.experimental.ppo import PPOConfig
    profile, theirs = load_yaml(ROOT / "presets/trl-ppo.yaml"), trl_defaults(PPOConfig)
    train, ppo = profile["train"], profile["ppo"]
    assert {
        "per_device_train_batch_size": train["batch_size"],
        "gradient_accumulation_steps": 1,
        "response_length": train["max_new_tokens"],
        "temperature": train["temperature"],
        "lr_scheduler_type": train["lr_schedule"],
        "kl_coef": train["kl_coef"],
        "learning_rate": ppo["learning_rate"],
        "num_ppo_epochs": ppo["num_epochs"],
        "num_mini_batches": ppo["num_minibatches"],
        "cliprange": ppo["clip_range"],
        "kl_estimator": ppo["kl"]["estimator"],
        "vf_coef": ppo["value_coef"],
        "cliprange_value": ppo["value_clip_range"],
        "gamma": ppo["gamma"],
        "lam": ppo["gae_lambda"],
        "whiten_rewards": ppo["whiten_rewards"],
    }.items() <= theirs.items()
    trainer = trl_source("experimental/ppo/ppo_trainer.py")
    assert "clip_grad" not in trainer
    assert train["max_grad_norm"] == 1e9
    assert "non_score_reward = -args.kl_coef * kl" in trainer
    assert ppo["kl"]["place"] == "reward"


def test_trl_grpo_holds_the_defaults_of_the_installed_trl() -> None:
    profile, theirs = load_yaml(ROOT / "presets/trl-grpo.yaml"), trl_defaults(GRPOConfig)
    train, grpo = profile["train"], profile["grpo"]
    assert {
        "per_device_train_batch_size": train["batch_size"],
        "gradient_accumulation_steps": grpo["num_minibatches"],
        "steps_per_generation": None,
        "temperature": train["temperature"],
        "lr_scheduler_type": train["lr_schedule"],
        "max_grad_norm": train["max_grad_norm"],
        "beta": train["kl_coef"],
        "learning_rate": grpo["learning_rate"],
        "num_iterations": grpo["num_epochs"],
        "num_generations": grpo["group_size"],
        "epsilon": grpo["clip_range"],
        "epsilon_high": None,
        "delta": None,
        "entropy_coef": grpo["entropy_coef"],
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "loss_type": "dapo",
    }.items() <= theirs.items()
    assert grpo["aggregation"] == "token"
    assert theirs["max_completion_length"] == 512
    assert "advantages = advantages / (std_rewards + 1e-4)" in trl_source("trainer/grpo_trainer.py")
    assert grpo["advantage_eps"] == 1e-4


def test_the_profiles_page_shows_the_numbers_of_every_profile() -> None:
    """A column a profile, a row a key, `train.x` or `x` of the algorithm's section; a dash where a profile has none."""
    page = (ROOT / "docs/profiles.md").read_text(encoding="utf-8")
    head, _, *rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    assert head[1:] == [f"`{name}`" for name in PROFILES]
    keys = {row[0].strip("`") for row in rows}
    for column, (name, algorithm) in enumerate(PROFILES.items(), start=1):
        profile = load_yaml(ROOT / f"presets/{name}.yaml")
        values = dict(leaves({"train": profile["train"], **profile[algorithm]}))
        shown = {row[0].strip("`"): row[column] for row in rows}
        assert {key: parse([f"{key}={shown[key]}"])[key] for key in keys if shown[key] != "-"} == {
            key: value for key, value in values.items() if key in keys
        }, name
        assert set(profile[algorithm]) <= {key.partition(".")[0] for key in keys}, name
