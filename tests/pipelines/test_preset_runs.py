"""Every preset as it is written, two steps of it: its stages on small data and models of the same kind.

Models of the hub are small ones of the same architecture in a hub cache, so the preset's own name and revision find
them; its data set is a folder with the same configuration, split, columns and classes.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import constants
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from pipelines.presets import descriptions, with_preset
from stages import base, baseline, prepare, reward, sft, train
from tests.pipelines.conftest import ROOT
from triplex.data.reviews import generate_reviews
from triplex.models.saving import save_model
from triplex.models.scratch import train_tokenizer
from triplex.runs.files import sha256_file, write_json
from triplex.runs.params import load_yaml

REVIEWS = list(generate_reviews(160, seed=5))
SIZE = {
    "vocab_size": 1024, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 1024,
}  # fmt: skip
ARCHITECTURES: dict[str, PreTrainedConfig] = {  # of the models that presets name
    "distilbert/distilgpt2": GPT2Config(vocab_size=1024, n_embd=32, n_layer=1, n_head=4),
    "meta-llama/Llama-3.1-8B-Instruct": LlamaConfig(
        **SIZE,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 512,
        },
    ),
    "Qwen/Qwen2.5-7B": Qwen2Config(**SIZE, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
}  # fmt: skip
MADE_ONCE = ("seed", "compute", "data", "base", "sft", "perplexity", "baseline", "reward")  # before the trainings


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer([review.text for review in REVIEWS], vocab_size=1024, max_positions=1024)


@pytest.fixture(scope="module")
def graph() -> str:
    """dvc.yaml without the code that the stages read: YAML of that length takes longer than they do."""
    stages = load_yaml(ROOT / "dvc.yaml")["stages"]
    for stage in stages.values():
        stage["deps"] = [dep for dep in stage.get("deps", []) if not dep.endswith((".py", ".j2"))]
    return json.dumps({"stages": stages})


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which is out of reach."""
    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The projects whose stages before the trainings are done, by the sections that those read."""
    return {}


def params_of(name: str, folder: Path) -> dict[str, Any]:
    """What params.yaml holds after the preset: as the command writes it, but to a file that nobody reads."""
    takes_data = "DATA_DIR" in (ROOT / f"presets/{name}.yaml").read_text()
    document, _ = with_preset(name, folder if takes_data else None, ROOT / "presets", ROOT / "presets/default.yaml")
    return json.loads(json.dumps(document, default=float))


def shrink(params: dict[str, Any], folder: Path) -> None:
    """Few rows, small models, two steps on one worker; what else the preset says stays."""
    params["compute"] |= {"executor": "local", "num_workers": 1, "threads": 1}
    params["compute"]["deepspeed"]["zero_stage"] = 0
    params["data"] |= {"source": small_source(params["data"]["source"], folder), "eval_frac": 0.2}
    if params["base"]["model"]["kind"] == "scratch":
        params["base"]["model"] |= {"vocab_size": 1024, "hidden_size": 32, "num_layers": 1, "num_heads": 4}
    params["base"]["optim"]["num_epochs"] = params["sft"]["optim"]["num_epochs"] = 1
    params["sft"]["num_examples"] = 32
    for part, number in (("sentiment", "num_examples"), ("preference", "num_pairs")):
        if number in (model := params["reward"].get(part, {}).get("model", {})):
            model[number] = 32
    params["reward"].get("calibration", {}).update(num_samples=8, max_new_tokens=8)
    sizes = [params[name].get("group_size", 1) for name in params["algorithms"]]
    sizes += [params[name]["num_minibatches"] for name in params["algorithms"]]
    params["train"] |= {
        "num_steps": 2, "batch_size": math.lcm(*sizes), "max_new_tokens": 8, "eval_every": 1, "num_eval_prompts": 4,
    }  # fmt: skip
    if params["train"]["backend"] == "unsloth":
        params["train"]["backend"] = "native"


def small_source(source: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The source with few rows; those of a file or of the hub are written to `folder`."""
    match source["kind"]:
        case "embedded":
            return source | {"num_reviews": 160}
        case "stories":
            return source | {"num_stories": 80}
        case "files":
            for file in source["files"]:
                texts = [review.text for review in REVIEWS if review.label == file["label"]]
                Path(file["path"]).write_text("\n".join([*texts, ""]))
                file["sha256"] = sha256_file(file["path"])
            return source
    classes = {"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])}
    rows = {"text": [review.text for review in REVIEWS], "label": [review.label for review in REVIEWS]}
    Dataset.from_dict(rows, Features(classes)).to_parquet(folder / "imdb/plain_text/train-00000-of-00001.parquet")
    card = "configs: [{config_name: plain_text, data_files: [{split: train, path: plain_text/train-*}]}]"
    (folder / "imdb/README.md").write_text(f"---\n{card}\n---\n")
    return {**source, "name": str(folder / "imdb")}


def put_into(cache: Path, model: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """A small model under the name and revision of `model`, as the hub's client keeps it."""
    torch.manual_seed(0)
    config = ARCHITECTURES[model["name"]]
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    config.update(special)
    repository = cache / f"models--{model['name'].replace('/', '--')}"
    snapshot = repository / "snapshots" / model["revision"]
    save_model(snapshot, AutoModelForCausalLM.from_config(config), tokenizer)
    files = {file.name: {"size": file.stat().st_size, "blob_id": "0" * 40} for file in snapshot.iterdir()}
    write_json(repository / "trees" / f"{model['revision']}.json", {"format_version": 1, "files": files})


@pytest.mark.usefixtures("stages_here")
@pytest.mark.parametrize("name", sorted(descriptions(ROOT / "presets")))
def test_two_steps(
    name: str, graph: str, made: dict[str, Path], hub: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    params = params_of(name, tmp_path)
    shrink(params, tmp_path)
    key = json.dumps([params[section] for section in MADE_ONCE])
    project = made.setdefault(key, tmp_path)
    monkeypatch.chdir(project)
    Path("params.yaml").write_text(json.dumps(params))
    if project == tmp_path:
        Path("dvc.yaml").write_text(graph)
        shutil.copytree(ROOT / "plugins", "plugins")
        if params["base"]["model"]["kind"] == "hub":
            put_into(hub, params["base"]["model"], tokenizer)
        for stage in (prepare, base, sft, baseline, reward):
            stage.main()
    for algorithm in params["algorithms"]:
        train.main(algorithm)
        rows = [json.loads(line) for line in Path(f"reports/metrics/{algorithm}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [0, 1]
        assert all(math.isfinite(row["reward"]) and math.isfinite(row["kl"]) for row in rows)
        assert "eval/reward" in rows[-1]
        made_of = json.loads(Path(f"models/{algorithm}/config.json").read_text())["model_type"]
        assert made_of == json.loads(Path("models/base/config.json").read_text())["model_type"]
