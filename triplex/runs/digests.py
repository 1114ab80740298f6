"""Short digests of what a training step drew, computed and left behind: they tell where two runs part."""

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from xxhash import xxh3_128_digest

from triplex.runs.errors import InputError
from triplex.runs.files import write_text

DIGESTS = Path("reports/digests")
#: while a stage trains, in its state folder: one row a step, for who follows the run
LIVE = "digests.jsonl"

Row = dict[str, Any]


def digest(tensors: Iterable[Tensor | None]) -> str:
    """16 hex digits: SHA-256 over dtype, shape and XXH3-128 of each tensor, None counting as a place of its own.

    XXH3 because SHA-256 itself would take 4 % of a training step (docs/reproducibility.md); nobody forges a digest
    to hide a difference from himself, and what proves a run are the SHA-256 of its manifest.
    """
    whole = sha256()
    for tensor in tensors:
        if tensor is None:
            whole.update(b"none;")
            continue
        data = tensor.detach().cpu().contiguous()
        whole.update(f"{data.dtype}{tuple(data.shape)};".encode())
        whole.update(xxh3_128_digest(data.reshape(-1).view(torch.uint8).numpy().data))
    return whole.hexdigest()[:16]


class DigestRows:
    """The rows of one training, in a file of its state folder, so that a resumed run has those of all its steps."""

    def __init__(self, state: Path) -> None:
        self.path = state / LIVE
        self.rows: list[Row] = []

    def resume(self, steps_done: int) -> None:
        """Keep the rows of the steps before the checkpoint; what was lost after it is done again.

        InputError if there are fewer: the checkpoint was written after them, so somebody has touched the folder.
        """
        self.rows = read_rows(self.path)[:steps_done] if self.path.is_file() else []
        if len(self.rows) < steps_done:
            what = f"holds {len(self.rows)} of the {steps_done} steps of the checkpoint beside it"
            raise InputError(self.path, what, f"delete {self.path.parent} and start the stage anew")
        write_text(self.path, _lines(self.rows))

    def append(self, row: Row) -> None:
        """One more step; a checkpoint that counts it puts it on the disk first."""
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_lines([row]))


def publish(name: str, *states: Path) -> None:
    """Write reports/digests/NAME.jsonl: the rows of the trainings in these folders, none where nothing was trained."""
    live = [state / LIVE for state in states]
    write_text(DIGESTS / f"{name}.jsonl", "".join(path.read_text(encoding="utf-8") for path in live if path.is_file()))


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of digests; a last line that is still being written does not count."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
