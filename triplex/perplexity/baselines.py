"""The table of human references under the frozen scorer, which knows by which scorer its numbers were made."""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from triplex.data.tables import read_table, write_table
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.levels import LEVELS
from triplex.perplexity.segment import SEGMENTER
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_file

NATS_COLUMNS = tuple(f"{level}_nats" for level in LEVELS)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # "train" or "eval"
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("reference_sha256", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        *(pa.field(column, pa.float64(), nullable=False) for column in NATS_COLUMNS),
    ]
)
_KEY = b"scorer"


def scorer_identity(folder: str | Path, precision: str, config: PerplexityConfig) -> dict[str, str]:
    """What decides a scorer's numbers, by name: model files, segmenter, precision, pools; not the batches."""
    folder = Path(folder)
    shards = sorted(folder.glob("*.safetensors"))
    weights = sha256("".join(sha256_file(shard) for shard in shards).encode()).hexdigest()
    return {
        "weights": weights,
        "config.json": _file_hash(folder / "config.json"),
        "tokenizer.json": _file_hash(folder / "tokenizer.json"),
        "segmenter": SEGMENTER,
        "precision": precision,
        "profile": json.dumps(
            config.model_dump(mode="json", by_alias=True, exclude={"max_tokens_per_batch"}), sort_keys=True
        ),
    }


def text_sha256(text: str) -> str:
    """Hex SHA-256 of the text's UTF-8 bytes."""
    return sha256(text.encode("utf-8")).hexdigest()


def write_baselines(path: str | Path, rows: Iterable[Mapping[str, Any]], identity: Mapping[str, str]) -> None:
    """Write rows of SCHEMA with the scorer's identity in the file's metadata, atomically."""
    write_table(path, rows, SCHEMA.with_metadata({_KEY: json.dumps(dict(identity))}))


def read_baselines(path: str | Path, identity: Mapping[str, str]) -> pa.Table:
    """The table of SCHEMA; InputError naming what differs when another scorer than `identity` made it."""
    table = read_table(path, SCHEMA)
    made_by = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
    differing = [name for name in identity if made_by.get(name) != identity[name]]
    if differing:
        lines = "; ".join(f"{name} was {made_by.get(name, 'not recorded')}, is {identity[name]}" for name in differing)
        raise InputError(path, f"made by another scorer: {lines}", "run `dvc repro baseline`")
    return table


def level_moments(table: pa.Table) -> tuple[Tensor, Tensor]:
    """(mean (4,), standard deviation with n - 1 (4,)) of the nats on LEVELS, float32, over references with a token."""
    rows = table.filter(pc.greater(table["num_tokens"], 0))
    if len(rows) < 2:
        raise InputError("baselines", f"{len(rows)} references that hold a token, a spread needs 2", "score more rows")
    nats = torch.tensor([rows[column].to_pylist() for column in NATS_COLUMNS], dtype=torch.float64)
    return nats.mean(dim=1).float(), nats.std(dim=1).float()


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise InputError(path, "no such file", "save model and fast tokenizer with save_pretrained")
    return sha256_file(path)
