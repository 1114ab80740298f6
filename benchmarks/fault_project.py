"""A small finished project with the pipeline's kinds of files, for faults to be planted in."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import torch

from triplex.data.tables import SCHEMAS, write_table
from triplex.models.saving import save_model
from triplex.models.scratch import ScratchConfig, build_causal_lm, train_tokenizer
from triplex.perplexity.baselines import EMPTY_COLUMNS, NATS_COLUMNS, to_table, write_baselines
from triplex.perplexity.levels import LEVELS
from triplex.runs.checkpoint import write_checkpoint
from triplex.runs.files import write_json
from triplex.runs.params import SECTIONS

ROOT, SEED = Path(__file__).parents[1], 7
STATE = Path(".triplex/state/make-0123456789abcdef")
OUTS = ("models/base", "data/processed", "data/baselines.parquet", "reports/metrics", "reports/eval.json")
STAGE = """\
import shutil, sys
from triplex.runs.manifest import write_manifest
name, source, *outs = sys.argv[1:]
shutil.copytree(source, ".", dirs_exist_ok=True)
write_manifest({"stage": name, "params": {}, "inputs": {}}, [*outs, f"reports/manifests/{name}.json"])
"""
TEXTS = tuple(f"The {thing} is {how}, and it was {price}." for thing, how, price in product(
    ("lamp", "kettle", "chair", "book"), ("bright", "cool", "small", "broken", "good"), ("cheap", "dear", "a gift")
))  # fmt: skip


def write_project() -> None:
    """Make the current folder, which holds params.yaml, a project whose two stages DVC has run, and two checkpoints."""
    write_sources()
    write_stages()
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for command in (["git", "init"], [sys.executable, "-m", "dvc", "init"], [sys.executable, "-m", "dvc", "repro"]):
        subprocess.run([*command, "--quiet"], check=True, env={**os.environ, **path})
    for step in (20, 40):
        with write_checkpoint(STATE, step, identity={"stage": "make"}) as checkpoint:
            torch.save({"weights": torch.arange(5000.0) * step, "step": step}, checkpoint / "state.pt")


def write_sources() -> None:
    """What the stages copy: a model, its tokenizer, tables, baselines, metrics, a report."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=320, max_positions=64)
    size = {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_positions": 64}
    config = ScratchConfig.model_validate({"kind": "scratch", "architecture": "gpt2", **size})
    torch.manual_seed(SEED)
    make, report = Path("source/make"), Path("source/report")
    save_model(make / "models/base", build_causal_lm(config, tokenizer), tokenizer)
    columns = (
        {"id": str(n), "prompt": text[:8], "completion": text[8:], "label": n % 2} for n, text in enumerate(TEXTS)
    )
    write_table(make / "data/processed/sft.parquet", columns, SCHEMAS["sft"])
    pair = {"prompt_sha256": "0" * 64, "reference_sha256": "1" * 64, "split": "train", "num_tokens": 9}
    rows = [{"id": str(n), **pair, **dict.fromkeys(NATS_COLUMNS + EMPTY_COLUMNS, 5 + n / 10)} for n in range(50)]
    noise = {cause: dict.fromkeys(LEVELS, 0.0) for cause in ("batch", "threads", "precision")}
    write_baselines(make / "data/baselines.parquet", [to_table(rows)], {"model": "2" * 64}, noise)
    metrics = make / "reports/metrics/ppo.tsv"
    metrics.parent.mkdir(parents=True)
    metrics.write_text("step\treward\n" + "".join(f"{n}\t{n / 7}\n" for n in range(100)))
    write_json(make / "reports/eval.json", {"models": {"ppo": {"reward": {"mean": 0.886, "std": 0.1}}}})
    (report / "reports").mkdir(parents=True)
    (report / "reports/index.html").write_text("<html>" + "".join(f"<p>{text}</p>" for text in TEXTS) + "</html>")


def write_stages() -> None:
    """dvc.yaml: `make` writes what the pipeline's stages write, `report` reads it."""
    Path("stage.py").write_text(STAGE)
    Path("dvc.yaml").write_text(
        f"stages:\n  make:\n    cmd: python stage.py make source/make {' '.join(OUTS)}\n"
        f"    deps: [stage.py, source/make]\n    params: [{', '.join(SECTIONS)}]\n"
        f"    outs: [{', '.join(OUTS)}, reports/manifests/make.json]\n"
        f"  report:\n    cmd: python stage.py report source/report reports/index.html\n"
        f"    deps: [stage.py, source/report, params.yaml, {', '.join(OUTS)}]\n"
        f"    outs: [reports/index.html, reports/manifests/report.json]\n"
    )
