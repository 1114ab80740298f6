"""Model folders with random damage: a model that computes, or an InputError, never anything else."""

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triplex.models.loading import load_causal_lm
from triplex.models.saving import save_model
from triplex.runs.errors import InputError

JSON_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
VALUES: list[Any] = [
    None, True, 0, 1, -1, 3, 33, 10**6, 0.5, -1e308, "", "x", "gpt2", "../x", "torch.bfloat16", [], {}, [1], ["x"],
    {"a": 1}, [[]], "auto", "http://x", "\ud800",
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """A good GPT-2 of 2 layers, 32 wide."""
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    save_model(folder, tiny_lm(), tiny_tokenizer)
    return folder


def load(good: Path, file: str, content: bytes) -> bool:
    """Whether the folder with this content of a file is taken; what is taken gives finite numbers."""
    folder = good.with_name("damaged")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    (folder / file).write_bytes(content)
    try:
        model, tokenizer = load_causal_lm(folder)
    except InputError as error:
        told = error
    else:
        check_sound(model, tokenizer)
        return True
    assert told.where.startswith(str(folder))
    assert told.what
    assert told.remedy
    assert "\n" not in told.what
    return False


def check_sound(model: Any, tokenizer: Any) -> None:
    """What every user of a loaded model counts on."""
    assert torch.isfinite(torch.cat([p.flatten() for p in model.parameters()])).all()
    assert len(tokenizer) <= model.get_input_embeddings().weight.shape[0]
    assert tokenizer.pad_token_id is not None
    assert tokenizer.eos_token_id is not None


def keys(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys of a JSON document, of its inner objects too; of a long list the first items."""
    found: list[tuple[Any, ...]] = []
    for key in node if isinstance(node, dict) else range(min(3, len(node))) if isinstance(node, list) else ():
        found += [(*path, key), *keys(node[key], (*path, key))]
    return [place for place in found if "vocab" not in place[:-1]]


def test_what_is_damaged_here_is_taken_while_it_is_whole(good: Path) -> None:
    assert load(good, "config.json", (good / "config.json").read_bytes())


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        pytest.param("config.json", "architectures", [None], id="bad-48-architecture-null"),
        pytest.param("config.json", "architectures", True, id="bad-48-architectures-true"),
        pytest.param("tokenizer.json", "model.continuing_subword_prefix", "xxxx", id="bad-53-panic-of-the-tokenizer"),
    ],
)
def test_what_random_damage_once_found(good: Path, file: str, key: str, value: Any) -> None:
    document = json.loads((good / file).read_text())
    *parents, leaf = key.split(".")
    node = document
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    assert not load(good, file, json.dumps(document).encode())


@pytest.mark.parametrize("file", JSON_FILES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), value=st.sampled_from(VALUES))
def test_any_value_in_any_place_of_a_settings_file(good: Path, file: str, place: int, value: Any) -> None:
    document = json.loads((good / file).read_text())
    found = keys(document)
    *parents, leaf = found[place % len(found)]
    node = document
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    load(good, file, json.dumps(document).encode())


@pytest.mark.parametrize("file", [*JSON_FILES, "model.safetensors"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), content=st.binary(max_size=30), dropped=st.integers(0, 50))
def test_bytes_put_into_the_place_of_others(good: Path, file: str, place: float, content: bytes, dropped: int) -> None:
    old = (good / file).read_bytes()
    at = int(place * len(old))
    load(good, file, old[:at] + content + old[at + dropped :])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 1000),
            st.sampled_from(["dtype", "shape", "data_offsets", "name"]),
            st.sampled_from([None, "F16", "F64", "I8", "X", [], [1], [-1], [2**62, 4], [0, 0], [0, 2**63], "h", {}]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_lying_header_of_the_weights(good: Path, changes: list[tuple[int, str, Any]]) -> None:
    old = (good / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", old[:8])[0]
    header = json.loads(old[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    for place, key, value in changes:
        name = names[place % len(names)]
        if key == "name":
            header[f"other.{place}"] = header.pop(name, {})
        elif isinstance(header.get(name), dict):
            header[name][key] = value
    text = json.dumps(header).encode()
    load(good, "model.safetensors", struct.pack("<Q", len(text)) + text + old[8 + size :])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_one_number_that_is_none_is_found_wherever_it_stands(good: Path, place: float, value: float) -> None:
    old = bytearray((good / "model.safetensors").read_bytes())
    first = 8 + struct.unpack("<Q", old[:8])[0]
    at = first + int(place * (len(old) - first)) // 4 * 4
    old[at : at + 4] = struct.pack("<f", value)
    assert not load(good, "model.safetensors", bytes(old))
