"""Counter-based seeds: each is a function of what it is for, never of what ran before."""

import hashlib
import os
import random

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) from e.g. (master seed, stage, step, row id, sample index).

    BLAKE2b over the parts, each with its type and length, so that ("a", "b") and ("ab",) differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def seed_everything(seed: int, threads: int) -> None:
    """Seed Python, NumPy and torch, fix the thread count and forbid kernels whose result varies between runs."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
