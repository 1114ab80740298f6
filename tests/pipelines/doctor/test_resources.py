import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.doctor import resources
from pipelines.doctor.resources import (
    GB,
    RUNTIME,
    disk,
    disk_estimate,
    memory,
    memory_estimate,
    scratch_shape,
    told,
)  # fmt: skip
from pipelines.sizing import find_shape
from tests.pipelines.conftest import ROOT
from triplex.models.saving import save_model
from triplex.models.scratch import ScratchConfig, build_causal_lm
from triplex.runs.params import load_yaml

#: peak memory of the hungriest stage in MB, from docs/results.md, which `python -m benchmarks.pipeline` prints
MEASURED_MB = {"params.yaml": 1098, "presets/story.yaml": 970, "presets/rt-polarity.yaml": 1070}
#: (layers, width, words, tokens a pass) and the MB that a native PPO training of that size added at its peak, as
#: benchmarks/memory.py measures it; without a reward's models and without scoring
GROWN_MB = {(4, 128, 2048, 640): 58.8, (3, 128, 16384, 640): 169.4, (8, 512, 4096, 640): 570.5}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")


def set_model(**values: Any) -> None:
    text = Path("params.yaml").read_text()
    for key, value in values.items():
        old = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        text = text.replace(old, f"{old.partition(':')[0]}: {value}", 1)
    Path("params.yaml").write_text(text)


@pytest.mark.parametrize("name", MEASURED_MB)
def test_the_estimate_is_near_the_measured_peak(name: str) -> None:
    params = load_yaml(ROOT / name)
    estimate = memory_estimate(params, scratch_shape(params["base"]["model"]))
    assert estimate.total == pytest.approx(MEASURED_MB[name] * 1e6, rel=0.15)


@pytest.mark.parametrize("size", GROWN_MB)
def test_the_estimate_grows_as_training_does(size: tuple[int, int, int, int]) -> None:
    layers, hidden, vocab, tokens = size
    model = {"hidden_size": hidden, "num_layers": layers, "vocab_size": vocab, "max_positions": 64, "num_heads": 4}
    shape = scratch_shape(model | {"architecture": "gpt2"})
    train = {"max_tokens_per_pass": tokens, "batch_size": 16, "max_new_tokens": 32}
    params = {"train": train, "perplexity": {"max_tokens_per_batch": 0}}
    rewards = 2 * 4 * shape.num_parameters  # the scorer and the classifier, which this training does without
    grown = memory_estimate(params, shape).total - RUNTIME - rewards
    assert grown == pytest.approx(GROWN_MB[size] * 1e6, rel=0.25)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_shape_is_that_of_the_model(architecture: str, tmp_path: Path, tiny_tokenizer: Any) -> None:
    config = ScratchConfig(
        kind="scratch", architecture=architecture, vocab_size=len(tiny_tokenizer), hidden_size=32, num_layers=2,
        num_heads=2, max_positions=64,
    )  # fmt: skip
    model = build_causal_lm(config, tiny_tokenizer)
    save_model(tmp_path / "model", model, tiny_tokenizer)
    shape = scratch_shape(config.model_dump())
    assert shape == find_shape(str(tmp_path / "model"))
    assert shape.num_parameters == sum(p.numel() for p in model.parameters() if p.dim() > 1)


def test_a_model_that_fits_is_no_finding() -> None:
    assert [*memory(), *disk()] == []
    assert told().startswith("a run takes about 1.0 of ")


def test_too_little_memory_is_told_with_the_estimate() -> None:
    set_model(hidden_size=8 * 65536)
    (finding,) = memory()
    params = load_yaml(Path("params.yaml"))
    total = memory_estimate(params, scratch_shape(params["base"]["model"])).total
    assert total > psutil.virtual_memory().total
    assert f"about {total / GB:.1f} GB needed" in finding.meaning
    assert "weights, gradients and Adam" in finding.meaning


def test_too_little_disk_is_told_with_the_estimate() -> None:
    set_model(hidden_size=8 * 65536)
    (finding,) = disk()
    need = disk_estimate(scratch_shape(load_yaml(Path("params.yaml"))["base"]["model"]))
    assert f"about {need / GB:.2f} GB needed" in finding.meaning


def test_a_model_of_the_hub_is_not_guessed_at(tiny_lm: Any, tiny_tokenizer: Any) -> None:
    set_model(kind="hub")
    text = Path("params.yaml").read_text()
    assert "kind: hub" in text
    Path("params.yaml").write_text(text.replace("base:\n  model:\n    kind: scratch", "base:\n  model:\n    kind: hub"))
    assert [*memory(), *disk()] == []
    assert "not to be estimated" in told()
    save_model(Path("models/base"), tiny_lm(), tiny_tokenizer)
    assert "a run takes about" in told()


def test_a_control_group_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("500000000\n")
    (tmp_path / "memory.current").write_text("100000000\n")
    assert resources.available_memory() == 400_000_000
    (finding,) = memory()
    assert finding.where == "0.4 GB available"
    (tmp_path / "memory.max").write_text("max\n")
    assert list(memory()) == []
