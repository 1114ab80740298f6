from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from triplex.backends.unsloth import check, load_policy
from triplex.models.optim import LoraConfig
from triplex.runs.errors import InputError

ADAPTERS = LoraConfig(rank=8, alpha=16)

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA GPU")
no_package = pytest.mark.skipif(find_spec("unsloth") is not None, reason="needs an environment without Unsloth")


@no_gpu
@no_package
def test_bad_42_without_a_gpu_and_the_package_it_says_so_before_it_looks_at_the_model(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_policy(tmp_path / "nothing", ADAPTERS, "bfloat16", seed=0)
    assert str(caught.value).splitlines() == [
        "params.yaml: train.backend = unsloth: there is no CUDA GPU and the package is not installed",
        "  remedy: pip install 'triplex[unsloth]' on a machine with a CUDA GPU, or write train.backend: native",
    ]


@no_gpu
def test_with_the_package_and_no_gpu_it_names_the_gpu_and_does_not_import_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package itself fails at its import there."""
    (tmp_path / "unsloth.py").write_text("raise NotImplementedError('You need a GPU.')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="unsloth: there is no CUDA GPU\n"):
        load_policy(tmp_path, ADAPTERS, "bfloat16", seed=0)


@no_package
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_with_a_gpu_and_without_the_package_it_names_the_package() -> None:
    with pytest.raises(InputError, match="unsloth: the package is not installed\n"):
        check(ADAPTERS, "bfloat16")
