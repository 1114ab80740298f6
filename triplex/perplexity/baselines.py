"""The table of human references under the frozen scorer, which knows by which scorer its numbers were made."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from triplex.data.tables import read_table, rechunk, write_chunks
from triplex.perplexity.config import PerplexityConfig
from triplex.perplexity.improvement import improvement_pct
from triplex.perplexity.levels import LEVELS
from triplex.perplexity.noise import Noise
from triplex.perplexity.scorer import FrozenScorer
from triplex.perplexity.segment import SEGMENTER
from triplex.runs.errors import InputError
from triplex.runs.files import sha256_file

NATS_COLUMNS = tuple(f"{level}_nats" for level in LEVELS)  # the reference after its prompt alone
EMPTY_COLUMNS = tuple(f"empty_{level}_nats" for level in LEVELS)  # after the template with an empty response
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # "train" or "eval"
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("reference_sha256", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        *(pa.field(column, pa.float64(), nullable=False) for column in NATS_COLUMNS + EMPTY_COLUMNS),
    ]
)
_IDENTITY, _NOISE = b"scorer", b"noise"
_AT_ONCE = 256  # rows between two calls of `on_scored`
_ROWS_A_GROUP = 2**16  # of the parquet file


@dataclass(frozen=True)
class Baselines:
    """The table of SCHEMA with the noise of its scorer."""

    table: pa.Table
    noise: Noise

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean (4,), standard deviation with n - 1 (4,)) of the nats on LEVELS, over references with a token."""
        rows = self.table.filter(pc.greater(self.table["num_tokens"], 0))
        if len(rows) < 2:
            what = f"{len(rows)} references that hold a token, a spread needs 2"
            raise InputError("baselines", what, "score more rows: raise baseline.num_references")
        nats = _columns(rows, NATS_COLUMNS)
        return nats.mean(dim=0).float(), nats.std(dim=0).float()

    def empty_nats(self, prompts: Sequence[str], references: Sequence[str]) -> Tensor:
        """(B, 4) float32: nats of each reference after the template with its prompt and an empty response.

        InputError naming the first pair of prompt and reference that the table lacks.
        """
        rows = []
        for number, pair in enumerate(zip(prompts, references, strict=True)):
            row = self._row_of_pair.get(tuple(map(text_sha256, pair)))
            if row is None:
                raise InputError(
                    f"baselines, row {number}",
                    f"no baseline for the reference {pair[1][:60]!r} of the prompt {pair[0][:60]!r}",
                    "raise baseline.num_references to all rows, and run `dvc repro baseline`",
                )
            rows.append(row)
        return self._empty_nats[rows]

    def noise_floor_pct(self, weights: Sequence[float]) -> float:
        """The improvement in per cent that noise alone can produce, for (word, phrase, sentence) weights.

        100 (1 - exp(-sum_L w_L n_L)), n_L the largest difference on level L between a text alone and in a batch, or
        between numbers of threads, whichever is larger.
        """
        largest = [max(self.noise["batch"][level], self.noise["threads"][level]) for level in LEVELS[1:]]
        nats = torch.tensor([largest], dtype=torch.float64)
        return improvement_pct(nats, torch.zeros_like(nats), weights).item()

    @cached_property
    def _row_of_pair(self) -> dict[tuple[str, ...], int]:
        pairs = zip(self.table["prompt_sha256"].to_pylist(), self.table["reference_sha256"].to_pylist(), strict=True)
        return {pair: row for row, pair in enumerate(pairs)}

    @cached_property
    def _empty_nats(self) -> Tensor:
        return _columns(self.table, EMPTY_COLUMNS).float()


def score_baselines(
    scorer: FrozenScorer,
    config: PerplexityConfig,
    rows: Sequence[Mapping[str, Any]],
    on_scored: Callable[[int], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Rows of SCHEMA for rows that hold `id`, `split`, `prompt` and `reference`; `on_scored` gets counts of rows.

    A reference is scored after its prompt, and once more after the template with an empty response, where that context
    is another one. InputError naming split and id as `FrozenScorer.score` has it.
    """
    scored: list[dict[str, Any]] = []
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
        scored += _score(scorer, config, part)
        on_scored(len(part))
    return scored


def _score(scorer: FrozenScorer, config: PerplexityConfig, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    prompts, references = [row["prompt"] for row in rows], [row["reference"] for row in rows]
    names = row_names(rows)
    results = scorer.score(prompts, references, names=names)
    levels = torch.stack([result.levels for result in results])
    contexts = [config.context(prompt, "") for prompt in prompts]
    empty = levels if contexts == prompts else scorer.level_nats(contexts, references, names=names)
    return [
        {
            "id": row["id"],
            "split": row["split"],
            "prompt_sha256": text_sha256(row["prompt"]),
            "reference_sha256": text_sha256(row["reference"]),
            "num_tokens": len(result.nats),
            **dict(zip(NATS_COLUMNS + EMPTY_COLUMNS, nats, strict=True)),
        }
        for row, result, nats in zip(rows, results, torch.cat([levels, empty], dim=1).tolist(), strict=True)
    ]


def row_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What errors call them."""
    return [f"{row['split']} reference {row['id']!r}" for row in rows]


def scorer_identity(folder: str | Path, precision: str, config: PerplexityConfig) -> dict[str, str]:
    """What decides a table's numbers, by name: model files, segmenter, precision, template, pools; not the batches."""
    folder = Path(folder)
    shards = sorted(folder.glob("*.safetensors"))
    weights = sha256("".join(sha256_file(shard) for shard in shards).encode()).hexdigest()
    pools = config.model_dump(mode="json", by_alias=True, exclude={"scorer", "max_tokens_per_batch", "template"})
    return {
        "weights": weights,
        "config.json": _file_hash(folder / "config.json"),
        "tokenizer.json": _file_hash(folder / "tokenizer.json"),
        "segmenter": SEGMENTER,
        "precision": precision,
        "template": config.template,
        "pools": json.dumps(pools, sort_keys=True),
    }


def text_sha256(text: str) -> str:
    """Hex SHA-256 of the text's UTF-8 bytes."""
    return sha256(text.encode("utf-8")).hexdigest()


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """What `score_baselines` gives, as `write_baselines` takes it."""
    return pa.Table.from_pylist(list(rows), SCHEMA)


def write_baselines(path: str | Path, tables: Iterable[pa.Table], identity: Mapping[str, str], noise: Noise) -> None:
    """Write tables of SCHEMA with the scorer's identity and noise in the file's metadata, atomically."""
    metadata = {_IDENTITY: json.dumps(dict(identity)), _NOISE: json.dumps(noise)}
    write_chunks(path, rechunk(tables, _ROWS_A_GROUP), SCHEMA.with_metadata(metadata))


def read_baselines(path: str | Path, identity: Mapping[str, str]) -> Baselines:
    """The table and its noise; InputError naming what differs when another scorer than `identity` made it."""
    table = read_table(path, SCHEMA)
    metadata = table.schema.metadata or {}
    made_by = json.loads(metadata.get(_IDENTITY, b"{}"))
    differing = [name for name in identity if made_by.get(name) != identity[name]]
    if differing:
        lines = "; ".join(f"{name} was {made_by.get(name, 'not recorded')}, is {identity[name]}" for name in differing)
        raise InputError(path, f"made by another scorer: {lines}", "run `dvc repro baseline`")
    return Baselines(table, json.loads(metadata[_NOISE]))


def _columns(table: pa.Table, names: Sequence[str]) -> Tensor:
    """(rows, columns) float64."""
    return torch.tensor([table[name].to_pylist() for name in names], dtype=torch.float64).T


def _file_hash(path: Path) -> str:
    if not path.is_file():
        raise InputError(path, "no such file", "save model and fast tokenizer with save_pretrained")
    return sha256_file(path)
