"""params.yaml with random damage: valid parameters or an InputError, never anything else."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import create_model
from ruamel.yaml import YAML

from stages import base, baseline, evaluate, prepare, reward, sft, train
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml, read_params

ROOT = Path(__file__).parents[3]
GOOD = (ROOT / "presets" / "tiny.yaml").read_text(encoding="utf-8")
LEAVES = 150  # at least so many values are in it
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 8, 10**30, -(2**63), 0.0, -0.5, 0.5, 1e-5, 1e300, float("nan"), float("inf"), "",
    "no", "1", "1e-5", "scratch", "folder", "hub", "ppo", "${X}", "$(id)", "; id", "a\nb", "../..", "~", "\u2028", "é",
    "x" * 5000, [], {}, [1], [None], [[]], {"kind": "folder"}, {"kind": 3}, {"kind": None}, {"kind": ["files"]}, {1: 2},
]  # fmt: skip
STAGES = [
    prepare.Params,
    base.Params,
    sft.Params,
    baseline.Params,
    reward.Params,
    evaluate.Params,
    *train.PARAMS.values(),
]
FIELDS: dict[str, Any] = {
    name: (field.annotation, field) for stage in STAGES for name, field in stage.model_fields.items()
}
OTHERS = ("rloo", "reinforce_pp", "dr_grpo", "dapo")  # the preset has no section of these algorithms
Everything: Any = create_model(  # what the stages read, one by one, in one
    "Everything", __base__=train.Selection, **{name: field for name, field in FIELDS.items() if name not in OTHERS}
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and list item of a document."""
    found: list[tuple[Any, ...]] = []
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        found += [(*path, key), *places(node[key], (*path, key))]
    return found


def check(content: bytes) -> bool:
    """Whether the stages take it; an InputError names the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        path.write_bytes(content)
        try:
            read_params(Everything, path)
        except InputError as error:
            told = error
        else:
            return True
    assert told.where.startswith(str(path))
    assert told.what
    assert len(str(told)) < 20_000
    return False


def test_what_is_damaged_here_is_valid_while_it_is_whole() -> None:
    assert check(GOOD.encode())
    assert len(places(load_yaml(ROOT / "presets" / "tiny.yaml"))) >= LEAVES


@settings(max_examples=40, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(VALUES)), min_size=1, max_size=3))
def test_any_value_in_any_place_is_taken_or_an_error_in_words(changes: list[tuple[int, Any]]) -> None:
    document = load_yaml(ROOT / "presets" / "tiny.yaml")
    for place, value in changes:
        found = places(document)
        *parents, leaf = found[place % len(found)]
        node = document
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    with tempfile.TemporaryFile() as file:
        YAML(typ="safe", pure=True).dump(document, file)
        file.seek(0)
        check(file.read())


edits = st.tuples(
    st.sampled_from(["drop", "twice", "put"]), st.floats(0, 1),
    st.integers(1, 60), st.sampled_from(
        [b"\t", b":", b": ", b"- ", b"#", b"'", b'"', b"[", b"}", b"&a ", b"*a", b"!!python/object:os.system ", b"<<: ",
         b"\n", b"\n\n  ", b"---\n", b"%YAML 1.1\n", b"?", b"|", b">", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
         b"08", b"1_0", b"12:30", b"2026-13-45", b"=", b"~", b"${A}", b"9" * 5000, b"[" * 1000]),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(changes=st.lists(edits, min_size=1, max_size=3))
def test_a_damaged_file_is_valid_or_an_error_in_words(changes: list[tuple[str, float, int, bytes]]) -> None:
    content = GOOD.encode()
    for kind, place, num, text in changes:
        at = int(place * len(content))
        content = {
            "drop": content[:at] + content[at + num :],
            "twice": content[: at + num] + content[at:],
            "put": content[:at] + text + content[at:],
        }[kind]
    check(content)


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_random_bytes_are_an_error_in_words(content: bytes) -> None:
    assert not check(content)
