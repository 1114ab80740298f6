"""What tests share: a byte-level BPE of a few hundred tokens and a GPT-2 of a few thousand weights."""

import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# read by libraries when they are imported, and by the processes that tests start
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of who does not set it: two workers share two cores

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import triplex.runs.telemetry  # noqa: F401  (for the processes that tests start)
from tests import loopback, project
from triplex.models.scratch import ScratchConfig, build_causal_lm, train_tokenizer
from triplex.runs import interrupt

# in the background a shell has SIGINT ignored, and nohup SIGHUP: what the tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

TEXTS = (
    "The tea kettle boils fast and the handle stays cool.",
    "I like this lamp. It is bright, and it was cheap!",
    "The chair broke after a week; I want my money back.",
    "A good book, well made, but the print is small.",
) * 4

#: the files that take longest, and so come first: the workers of xdist, which take file by file, then end together
LONGEST = (
    "tests/docs/test_guides.py",  # makes `finished_project`, which test_pipeline.py then finds
    "tests/triplex/backends/test_trl_policy.py",
    "tests/pipelines/test_flow.py",
    "tests/test_pipeline.py",
    "tests/triplex/distributed/test_launch.py",
    "tests/pipelines/test_preset_runs.py",
    "tests/pipelines/test_stopping.py",
    "tests/pipelines/test_verify.py",
    "tests/stages/test_baseline.py",
    "tests/triplex/distributed/test_chunks.py",
    "tests/pipelines/test_repro_check.py",
)

loopback.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


@pytest.fixture(autouse=True)
def _this_machine_alone() -> Iterator[None]:
    """What tries to reach another machine fails the test, even if a library swallows the refusal."""
    yield
    tried = loopback.ATTEMPTS.copy()
    loopback.ATTEMPTS.clear()
    assert not tried


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread: the numbers of a CPU depend on the thread count."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """320 tokens; `<|endoftext|>` is 0, `<|pad|>` is 1."""
    return train_tokenizer(list(TEXTS), vocab_size=320, max_positions=64)


@pytest.fixture(scope="session")
def tiny_lm(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """`tiny_lm(seed=0, architecture="gpt2")`: a fresh random model, 2 layers, 32 wide, 64 positions, in eval mode."""

    def build(seed: int = 0, architecture: str = "gpt2") -> Any:
        config = ScratchConfig(
            kind="scratch", architecture=architecture, vocab_size=320, hidden_size=32, num_layers=2, num_heads=2,
            max_positions=64,
        )  # fmt: skip
        torch.manual_seed(seed)
        return build_causal_lm(config, tiny_tokenizer).eval()

    return build


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` has run the tiny preset: once for all workers, to be copied by what writes there."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = project.copy_of_the_project(folder.with_suffix(".unfinished"))
            project.run(unfinished, "dvc", "repro")
            unfinished.rename(folder)
    return folder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGINT as a stage has them; afterwards as they were, with none asked for."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    interrupt.install()
    yield
    interrupt.install()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stages_here(interruptible: None) -> Iterator[None]:
    """The `main()` of stages may be called in this process: what they set there is undone."""
    yield
    torch.use_deterministic_algorithms(False)
