"""The whole pipeline on the tiny preset, for real: through `dvc repro`, through the flow, with the same lock file."""

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from rich.console import Console
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.fault_kills import Kills
from pipelines import overrides
from pipelines.graph import read_graph
from pipelines.proof import prove
from pipelines.publish import publish
from pipelines.resume import state_of
from pipelines.status import changes
from tests.hub import hub
from tests.project import copy_of_the_run, run
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_file
from triplex.runs.states import STATES

CHROMIUM = Path("/usr/bin/chromium")
STAGES = ("prepare", "base", "sft", "baseline", "reward", "train@ppo", "train@grpo", "evaluate", "plot")


def lock(folder: Path) -> dict:
    return YAML(typ="safe").load(folder / "dvc.lock")


@pytest.fixture(scope="module")
def repro(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its dvc.lock committed."""
    folder = copy_of_the_run(finished_project, tmp_path_factory.mktemp("repro") / "triplex")
    for command in ("git add dvc.lock", "git -c commit.gpgsign=false commit -qm run"):
        subprocess.run(command.split(), cwd=folder, check=True)
    return folder


def test_every_stage_ran_and_left_its_outs(repro: Path) -> None:
    assert set(lock(repro)["stages"]) == set(STAGES)
    for name in ("base", "sft", "ppo", "grpo"):
        model = AutoModelForCausalLM.from_pretrained(repro / "models" / name)
        assert model.generation_config.do_sample
        assert model.generation_config.max_new_tokens == (12 if name in ("ppo", "grpo") else None)
        assert "## Made from" in ModelCard.load(repro / "models" / name / "README.md").text
    for name in ("classifier", "preference"):
        AutoModelForSequenceClassification.from_pretrained(repro / "models/reward" / name)
        assert "reward" in ModelCard.load(repro / "models/reward" / name / "README.md").data.tags
    evaluation = json.loads((repro / "reports/eval.json").read_text())
    assert set(evaluation["models"]) == {"base", "sft", "ppo", "grpo"}
    assert set(evaluation["paired"]) == {"base", "ppo", "grpo"}
    keys = {"reward", "sentiment", "distinct_2", "repetition", "self_bleu", "length", "kl_nats", "perplexity"}
    assert all(keys <= set(model) for model in evaluation["models"].values())
    assert evaluation["models"]["sft"]["kl_nats"] == pytest.approx(0, abs=1e-6)
    samples = pq.read_table(repro / "reports/samples.parquet")
    assert len(samples) == 4 * evaluation["num_prompts"]
    assert (repro / "reports/index.html").stat().st_size > 10_000


def test_nothing_to_do_is_seen(repro: Path) -> None:
    """Nor is there after a comment in params.yaml."""
    params = repro / "params.yaml"
    text = params.read_text()
    params.write_text(f"{text}\n# a comment\n")
    output = run(repro, "dvc", "repro")
    params.write_text(text)
    assert "Running stage" not in output
    assert "up to date" in output


def test_the_page_of_dvc_plots_asks_for_nothing_and_draws(repro: Path, tmp_path: Path) -> None:
    run(repro, "dvc", "plots", "show")
    page = repro / "dvc_plots/index.html"
    assert not re.findall(r"<(?:script|link|img)\b[^>]*https?:", page.read_text())
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    flags = "--headless --no-sandbox --disable-gpu --virtual-time-budget=5000 --dump-dom"
    command = [str(CHROMIUM), *flags.split(), f"--user-data-dir={tmp_path}", page.as_uri()]
    drawn = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout
    assert drawn.count("<canvas") == len(YAML(typ="safe").load(repro / "dvc.yaml")["plots"])


def test_a_killed_stage_ends_with_the_same_bytes(repro: Path, tmp_path: Path) -> None:
    outcome = Kills("train@ppo", repro, tmp_path, random.Random(7)).run(kills=2)
    assert outcome.kills == 2
    assert (outcome.differing_bytes, outcome.manual_steps, outcome.left_running) == (0, 0, 0)


def test_manifests_cite_every_input_and_output(repro: Path) -> None:
    manifest = json.loads((repro / "reports/manifests/train-ppo.json").read_text())
    assert "models/sft" in manifest["inputs"]
    assert "triplex/rl/ppo.py" in manifest["inputs"]
    assert "triplex/rl/grpo.py" in manifest["inputs"]
    files = {f"reports/metrics/ppo.{kind}" for kind in ("tsv", "jsonl")} | {"reports/completions/ppo.parquet"}
    assert set(manifest["outputs"]) == {"models/ppo", "reports/digests/train-ppo.jsonl"} | files
    assert manifest["params"]["ppo"]["gae_lambda"] == 0.95


def test_a_stage_and_the_first_steps_of_a_training_verify(
    repro: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repro)
    console = Console(soft_wrap=True)
    assert prove(".", "sft", None, console).matches
    assert prove(".", "train@ppo", 2, console).matches
    told = capsys.readouterr().out
    assert "MATCH: sft\n" in told
    assert "MATCH: the first 2 steps of train@ppo\n" in told


def test_a_model_is_published_with_its_results_and_hashes(
    repro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repro)
    model, target = Path("models/ppo"), tmp_path / "kind"
    publish(model, str(target))
    there = {path.name for path in target.iterdir()}
    assert there == {path.name for path in model.iterdir()}
    card = ModelCard.load(target / "README.md")
    for name in there - {"README.md"}:
        assert (target / name).read_bytes() == (model / name).read_bytes()
        assert f"`{sha256_file(target / name)}`" in card.text
    mean = json.loads(Path("reports/eval.json").read_text())["models"]["ppo"]["reward"]["mean"]
    (reward,) = [result for result in card.data.eval_results if result.metric_type == "reward"]
    assert reward.metric_value == pytest.approx(mean)
    assert reward.metric_args["ci_low"] < mean < reward.metric_args["ci_high"]
    assert card.data.license == "apache-2.0"
    AutoModelForCausalLM.from_pretrained(target)
    with pytest.raises(InputError, match="is there already"):
        publish(model, str(target))


def test_a_model_of_the_reward_is_put_on_the_hub_in_one_commit(
    repro: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run asks nobody."""
    monkeypatch.chdir(repro)
    model = Path("models/reward/classifier")
    publish(model, "hub:acme/kind", dry_run=True)
    assert "licence apache-2.0 -> hub:acme/kind\ndry run" in capsys.readouterr().out
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with hub() as there:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", there.url)
        publish(model, "hub:acme/kind", private=True)
        assert there.token == "Bearer hf_x"
        assert there.asked["visibility"] == "private"
        assert there.files.keys() == {path.name for path in model.iterdir()}
        assert there.files["model.safetensors"] == (model / "model.safetensors").read_bytes()
        assert "Right on" in there.files["README.md"].decode()
        with pytest.raises(InputError, match=r"the hub did not take it \(403 Forbidden"):
            publish(model, "hub:theirs/kind")


def test_what_does_not_verify_is_not_published(repro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repro)
    file = Path("models/sft/generation_config.json")
    written = file.read_text()
    file.write_text(written.replace("1.0", "0.9"))
    with pytest.raises(InputError, match=r"stage sft: the run does not verify: \S+json: temperature: 0.9 \| 1.0"):
        publish(Path("models/ppo"), str(tmp_path / "kind"))
    file.write_text(written)
    assert not (tmp_path / "kind").exists()


def test_a_stopped_stage_is_told_with_its_step(repro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as outs that are deleted; nor are those who need them changed by that."""
    monkeypatch.chdir(repro)
    model, state = Path("models/ppo"), state_of("train@ppo")
    model.rename("ppo")
    (state / "step-000001").mkdir(parents=True)
    told = changes(read_graph())
    state.rename(STATES / f"train-ppo-{'0' * 16}")
    told_of_other_inputs = changes(read_graph())
    shutil.rmtree(STATES / f"train-ppo-{'0' * 16}")
    told_without_a_state = changes(read_graph())
    Path("ppo").rename(model)
    assert told == {key: [] for key in STAGES} | {"train@ppo": ["stopped, goes on from step 1"]}
    assert told_of_other_inputs["train@ppo"] == ["stopped, starts anew"]
    assert told_without_a_state == {key: [] for key in STAGES} | {"train@ppo": ["models/ppo deleted"]}


def test_held_out_prompts_never_occur_in_training(repro: Path) -> None:
    held_out = pq.read_table(repro / "data/processed/eval.parquet")["prompt"].to_pylist()
    texts = [text.casefold() for text in pq.read_table(repro / "data/processed/corpus.parquet")["text"].to_pylist()]
    assert held_out
    assert not [prompt for prompt in held_out if any(prompt.casefold() + " " in text for text in texts)]


def test_the_flow_gives_the_same_lock_and_one_parameter_changes_what_depends_on_it(
    repro: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The two trainings side by side, and what they end in, are run again."""
    folder = copy_of_the_run(repro, tmp_path_factory.mktemp("flow") / "triplex")
    run(folder, "pipelines", "run", "train", "evaluate", "plot", "--only", "--force")
    assert lock(folder) == lock(repro)
    overrides.apply({"grpo.learning_rate": 1e-4}, folder / "params.yaml")
    states = {name: found["state"] for name, found in json.loads(run(folder, "pipelines", "status", "--json")).items()}
    follow = {"evaluate": "will follow", "plot": "changed"}  # whose report shows all parameters
    assert states == dict.fromkeys(STAGES, "up to date") | {"train@grpo": "changed"} | follow
