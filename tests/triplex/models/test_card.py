from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from ruamel.yaml import YAML

from triplex.models.card import write_card
from triplex.models.optim import LoraConfig, OptimConfig
from triplex.runs.files import sha256_file
from triplex.runs.params import Section

DVC_YAML = """\
stages:
  sft:
    cmd: python -m stages.sft
    deps: [data/rows.parquet, stages/sft.py, triplex/models/card.md.j2, plugins]
    outs: [models/sft]
"""


class Params(Section):
    seed: int
    optim: OptimConfig


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in (("dvc.yaml", DVC_YAML), ("params.yaml", "seed: 7\n"), ("data/rows.parquet", "rows")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(task: str = "text-generation") -> str:
    write_card(Path("models/sft"), "sft", LoraConfig(rank=4, alpha=8), "`models/base`, fine-tuned.", task)
    return Path("models/sft/README.md").read_text()


def test_the_card_says_what_went_in_and_how(project: Path) -> None:
    card = ModelCard(write())
    assert card.data.to_dict() == {
        "library_name": "transformers", "license": "unknown", "pipeline_tag": "text-generation",
        "tags": ["triplex", "sft"],
    }  # fmt: skip
    assert f"| `data/rows.parquet` | `{sha256_file('data/rows.parquet')}` |" in card.text
    assert ".py` |" not in card.text
    assert ".j2" not in card.text
    assert "plugins" not in card.text
    block = card.text.partition("```yaml\n")[2].partition("```")[0]
    assert YAML(typ="safe").load(block) == {"rank": 4, "alpha": 8}
    assert "dvc repro sft" in card.text
    assert "AutoModelForCausalLM.from_pretrained(folder)" in card.text


def test_what_loads_a_classifier_is_named(project: Path) -> None:
    text = write("text-classification")
    assert "AutoModelForSequenceClassification.from_pretrained(folder)" in text
    assert "CausalLM" not in text


def test_adapters_are_told_of_where_there_are_any(project: Path) -> None:
    assert "adapters" not in write()
    (project / "models/sft/adapter").mkdir()
    assert 'PeftModel.from_pretrained(base, folder, subfolder="adapter")' in write()


def test_equal_inputs_give_equal_bytes_and_others_do_not(project: Path) -> None:
    first = write()
    assert write() == first
    (project / "data/rows.parquet").write_text("other rows")
    assert write() != first
    assert str(project) not in first


def test_how_often_checkpoints_are_saved_is_not_in_the_card(project: Path) -> None:
    """No weight depends on it, so what reads the folder is not to run again."""
    values = {"num_epochs": 1, "batch_size": 2, "warmup_frac": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0}

    def card(seed: int = 7, learning_rate: float = 0.5, checkpoint_every: int = 3) -> str:
        optim = OptimConfig(**values, learning_rate=learning_rate, checkpoint_every=checkpoint_every)
        write_card(Path("models/sft"), "sft", Params(seed=seed, optim=optim), "`models/base`, fine-tuned.")
        return Path("models/sft/README.md").read_text()

    first = card()
    assert "learning_rate: 0.5" in first
    assert card(checkpoint_every=4) == first
    assert card(learning_rate=0.25) != first
    assert card(seed=8) != first
