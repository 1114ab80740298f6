import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triplex.runs.seeds import derive_seed, seed_everything

Part = st.integers() | st.text(max_size=5)


@pytest.fixture
def torch_settings() -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_derive_seed_is_the_same_for_ever() -> None:
    # written out once from hashlib.blake2b over b"\x05\0\0\0int:7" b"\x08\0\0\0str:base" and so on
    assert derive_seed(7, "base") == 8_463_778_195_881_009_669
    assert derive_seed(7, "train@ppo", "sample", 3, "r-1", 0) == 4_339_513_555_805_287_462


@settings(deadline=None)
@given(st.lists(Part, max_size=4), st.lists(Part, max_size=4))
def test_derive_seed_tells_parts_apart(a: list[int | str], b: list[int | str]) -> None:
    assert (derive_seed(*a) == derive_seed(*b)) == (a == b)
    assert 0 <= derive_seed(*a) < 2**63


@pytest.mark.parametrize(
    ("a", "b"), [(("a", "b"), ("ab",)), ((1, 2), (12,)), (("1",), (1,)), ((1, 2), (2, 1)), ((0,), ()), ((True,), (1,))]
)
def test_derive_seed_knows_boundaries_types_and_order(a: tuple[int | str, ...], b: tuple[int | str, ...]) -> None:
    assert derive_seed(*a) != derive_seed(*b)


def test_neighbouring_seeds_share_no_bits_more_than_chance() -> None:
    seeds = [derive_seed(7, "sample", step, row) for step in range(50) for row in range(20)]
    assert len(set(seeds)) == 1000
    ones = [sum(seed >> bit & 1 for seed in seeds) for bit in range(63)]
    assert all(400 < count < 600 for count in ones)  # 500 expected, standard deviation 16


@pytest.mark.usefixtures("torch_settings")
def test_seed_everything_repeats_every_generator() -> None:
    seed_everything(2**63 - 1, threads=1)
    first = draws()
    assert draws() != first
    seed_everything(2**63 - 1, threads=1)
    assert draws() == first
    seed_everything(5, threads=1)
    assert draws() != first


@pytest.mark.usefixtures("torch_settings")
def test_seed_everything_sets_threads_and_determinism() -> None:
    seed_everything(1, threads=2)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
