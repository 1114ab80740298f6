"""A small reward in its folders, as the pipeline's stages leave it, with its scorer; an S3 server on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from triplex.models.saving import save_model
from triplex.perplexity.baselines import (
    EMPTY_COLUMNS,
    NATS_COLUMNS,
    scorer_identity,
    text_sha256,
    to_table,
    write_baselines,
)
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.levels import LEVELS
from triplex.rewards.composite import CompositeReward
from triplex.rewards.folder import RewardSpec, load_reward, save_spec

PERPLEXITY = {
    "max_tokens_per_batch": 256,
    "template": "{prompt}{response}",
    "word_pool": {"kind": "mean"},
    "phrase_pool": {"kind": "cvar", "q": 0.5},
    "sentence_pool": {"kind": "mean"},
}
CONFIG = {
    "repetition": {"weight": 0.5, "ngram_size": 1, "unit": "word"},
    "length": {"weight": 0.25, "min_tokens": 16, "max_tokens": 18},
    "perplexity": {
        "weight": 2.0,
        "level_weights": {"word": 0.2, "phrase": 0.3, "sentence": 0.5},
        "target": {"kind": "response", "shape": "band", "band_width": 0.5},
    },
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sft"
    save_model(folder, tiny_lm(seed=3), tiny_tokenizer)
    return folder


@pytest.fixture(scope="session")
def reward(model_folder: Path) -> CompositeReward:
    """Repetition, length, and a band around human text's perplexity under the tiny model."""
    root = model_folder.parent
    pair = {"prompt_sha256": text_sha256("p"), "reference_sha256": text_sha256("r")}
    nats = NATS_COLUMNS + EMPTY_COLUMNS
    rows = [
        {"id": str(i), "split": "train", "num_tokens": 9, **pair, **dict.fromkeys(nats, 5.76 + 0.01 * i)}
        for i in range(2)
    ]
    identity = scorer_identity(model_folder, "float32", PerplexityConfig.model_validate(PERPLEXITY))
    noise = {cause: dict.fromkeys(LEVELS, 0.0) for cause in ("batch", "threads", "precision")}
    write_baselines(root / "baselines.parquet", [to_table(rows)], identity, noise)
    spec = {"config": CONFIG, "perplexity": PERPLEXITY, "accuracy": {}, "calibration": {}}
    save_spec(root / "reward", RewardSpec.model_validate(spec))
    return load_reward(root / "reward", model_folder, root / "baselines.parquet", "float32")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server, whose credentials are in the environment."""
    credentials = {"AWS_ACCESS_KEY_ID": "toy", "AWS_SECRET_ACCESS_KEY": "toy", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
