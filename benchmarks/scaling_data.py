"""Many texts through Ray Data: `python -m benchmarks.scaling_data throughput memory`. Prints Markdown.

- throughput: 20,000 sentences, of the reviews that Triplex writes, scored on all levels by a random GPT-2, here and by
  one and two actors of one thread each; the seconds from the first row to the last, and with the start of the cluster
- memory: 2 GB of such sentences through two actors, which hash each chunk; what all processes hold at their peak above
  what they hold when the cluster is idle, beside one process. Pages that several share count once
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.pipeline import environment
from triplex.data.reviews import generate_reviews
from triplex.data.tables import rechunk, write_chunks
from triplex.distributed.chunks import map_chunks
from triplex.models.loading import load_causal_lm
from triplex.models.saving import save_model
from triplex.models.scratch import ScratchConfig, build_causal_lm, train_tokenizer
from triplex.perplexity.scorer import FrozenScorer
from triplex.runs.allocator import keep_freed_memory
from triplex.runs.params import ComputeConfig
from triplex.runs.stage import Run

MODEL = ScratchConfig(
    kind="scratch", architecture="gpt2", vocab_size=2048, hidden_size=128, num_layers=4, num_heads=4, max_positions=128
)
NUM_SENTENCES, ROWS_A_CHUNK = 20_000, 256
NUM_BYTES, CHUNK_BYTES = 2 * 10**9, 8 * 10**6
SENTENCES = pa.schema([pa.field("text", pa.string(), nullable=False)])


class Worker:
    """In each process: the level nats of sentences, or, where no model is given, the hash of them all."""

    def __init__(self, given: dict[str, Any]) -> None:
        model = given.get("model")
        self._scorer = FrozenScorer(*load_causal_lm(Path(model)), max_tokens_per_batch=4096) if model else None

    def __call__(self, rows: pa.Table) -> pa.Table:
        texts = rows["text"].to_pylist()
        if self._scorer is None:
            digest = sha256("".join(texts).encode()).hexdigest()
            return pa.table({"rows": [len(texts)], "sha256": [digest]})
        nats = self._scorer.level_nats(["A review."] * len(texts), [f" {text}" for text in texts])
        return pa.table({f"level_{i}": nats[:, i].double().numpy() for i in range(4)})


def sentences() -> Iterator[str]:
    """Without end."""
    seed = 0
    while True:
        seed += 1
        for review in generate_reviews(20_000, seed):
            yield from (f"{sentence}." for sentence in review.text.rstrip(".").split(". "))


def run(executor: str, num_workers: int, given: dict[str, Any], source: Path) -> tuple[list[str], float, float]:
    """(what came back, as text, chunk by chunk; seconds from the first chunk to the last; seconds of all)."""
    compute = ComputeConfig.model_validate({
        "executor": executor, "num_workers": num_workers, "threads": 1, "precision": "float32",
        "deepspeed": {"zero_stage": 0, "offload": False}, "max_failures": 0,
    })  # fmt: skip
    found, begin, first = [], time.perf_counter(), 0.0
    for table in map_chunks(compute, "benchmarks.scaling_data", given, source, Run("benchmark", 7, source.parent)):
        first = first or time.perf_counter()
        found.append(sha256(repr(table.to_pylist()).encode()).hexdigest())
    return found, time.perf_counter() - first, time.perf_counter() - begin


def throughput(folder: Path) -> None:
    """Sentences a second."""
    source, texts = folder / "sentences.parquet", list(islice(sentences(), NUM_SENTENCES))
    tokenizer = train_tokenizer(texts[:2000], MODEL.vocab_size, MODEL.max_positions)
    torch.manual_seed(7)
    save_model(folder / "model", build_causal_lm(MODEL, tokenizer), tokenizer)
    write_chunks(source, rechunk([pa.table({"text": texts}, SENTENCES)], ROWS_A_CHUNK), SENTENCES)
    given, first, same = {"model": str(folder / "model")}, 0.0, None
    print(
        "| how | sentences a second | against one process | same numbers | with the start, s |\n|---|---|---|---|---|"
    )
    for executor, num_workers in (("local", 1), ("ray", 1), ("ray", 2)):
        found, seconds, whole = run(executor, num_workers, given, source)
        same, rate = same or found, (NUM_SENTENCES - ROWS_A_CHUNK) / seconds
        first = first or rate
        name = f"{executor}, {num_workers} worker{'s' * (num_workers > 1)}"
        print(f"| {name} | {rate:,.0f} | {rate / first:.2f} | {found == same} | {whole:.1f} |", flush=True)


class Watch(threading.Thread):
    """The proportional set size of this process and all below it, sampled every half second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.sizes = [held()]
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.5):
            self.sizes.append(held())

    def peak(self) -> int:
        """Bytes; ends the watch."""
        self._done.set()
        self.join()
        return max(self.sizes)


def held() -> int:
    """Bytes of this process and of all below it, shared pages once."""
    this = psutil.Process(os.getpid())
    total = 0
    for process in (this, *this.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:  # ended since it was listed
            continue
    return total


def memory(folder: Path) -> None:
    """Peaks above the idle cluster's."""
    source, text = folder / "many.parquet", sentences()
    few = [pa.table({"text": list(islice(text, 1000))}, SENTENCES)]
    write_chunks(folder / "few.parquet", few, SENTENCES)

    def chunks() -> Iterator[pa.Table]:
        written, once = 0, list(islice(text, 200_000))
        while written < NUM_BYTES:
            start, part, size = written // 7 % 100_000, [], 0
            while size < CHUNK_BYTES:
                part.append(f"{written + size}: {once[(start + len(part)) % len(once)]}")
                size += len(part[-1])
            written += size
            yield pa.table({"text": part}, SENTENCES)

    write_chunks(source, chunks(), SENTENCES)
    num_chunks = pq.ParquetFile(source).num_row_groups
    print(f"{num_chunks} chunks, {source.stat().st_size / 1e6:,.0f} MB as parquet\n")
    print("| how | peak, MB | idle, MB | above idle, MB | same hashes | seconds |\n|---|---|---|---|---|---|")
    same = None
    for executor, num_workers in (("local", 1), ("ray", 2)):
        watch = Watch()
        watch.start()
        run(executor, num_workers, {}, folder / "few.parquet")
        idle = watch.peak()
        watch = Watch()
        watch.start()
        found, _, whole = run(executor, num_workers, {}, source)
        peak, same = watch.peak(), same or found
        cells = [f"{executor}, {num_workers}", *(f"{x / 1e6:,.0f}" for x in (peak, idle, peak - idle))]
        print(f"| {' | '.join([*cells, str(found == same), f'{whole:.0f}'])} |", flush=True)


def main() -> None:
    """Print the tables."""
    tables: dict[str, Callable[[Path], None]] = {"throughput": throughput, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=tables)
    torch.set_num_threads(1)
    keep_freed_memory()  # as every stage does
    for name in parser.parse_args().tables:
        print(f"{name}: {environment()}\n")
        with tempfile.TemporaryDirectory() as folder:
            tables[name](Path(folder))


if __name__ == "__main__":
    main()
