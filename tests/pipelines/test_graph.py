from pathlib import Path

import pytest

from pipelines.graph import read_graph, select, stage_modules
from triplex.runs.errors import InputError

NEEDS = {
    "prepare": (),
    "base": ("prepare",),
    "sft": ("base",),
    "baseline": ("sft",),
    "reward": ("base",),
    "train@ppo": ("sft", "baseline", "reward"),
    "train@grpo": ("sft", "baseline", "reward"),
    "evaluate": ("train@ppo", "train@grpo"),
    "plot": ("evaluate",),
}


@pytest.fixture(autouse=True)
def in_toy(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)


def test_the_graph_is_dvc_s() -> None:
    graph = read_graph()
    assert {name: set(stage.needs) for name, stage in graph.items()} == {k: set(v) for k, v in NEEDS.items()}
    assert graph["train@ppo"].outs == ("models/ppo.txt",)
    names = list(graph)
    assert all(names.index(needed) < names.index(name) for name, needs in NEEDS.items() for needed in needs)


@pytest.mark.parametrize(
    ("names", "only", "expected"),
    [
        ([], False, set(NEEDS)),
        (["sft"], False, {"prepare", "base", "sft"}),
        (["sft"], True, {"sft"}),
        (["train"], True, {"train@ppo", "train@grpo"}),
        (["train@grpo"], False, {"prepare", "base", "sft", "baseline", "reward", "train@grpo"}),
    ],
)
def test_selection(names: list[str], only: bool, expected: set[str]) -> None:
    assert set(select(read_graph(), names, only)) == expected


def test_order_is_kept_through_stages_left_out() -> None:
    plan = select(read_graph(), ["plot", "sft"], only=True)
    assert [(name, stage.needs) for name, stage in plan.items()] == [("sft", ()), ("plot", ("sft",))]


def test_unknown_stage_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'evalute'.*\n.*'evaluate'"):
        select(read_graph(), ["evalute"], only=False)
    with pytest.raises(InputError, match=r"there is train@ppo and train@grpo; `-S \"algorithms="):
        select(read_graph(), ["train@rloo"], only=False)


def test_only_needs_a_name() -> None:
    with pytest.raises(InputError, match="no stage named"):
        select(read_graph(), [], only=True)


def test_a_broken_file_is_told_with_its_line() -> None:
    Path("dvc.yaml").write_text("stages:\n  a:\n    cmd: [x\n")
    with pytest.raises(InputError, match=r"dvc\.yaml line"):
        read_graph()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        pytest.param("seed: 1\nseed: 2\n", "line 2: found duplicate key", id="bad-35-key"),
        pytest.param("a: 1\n\tb: 2\n", "line 2: found character", id="bad-43-tab"),
        pytest.param("a: 1\nb: 08\n", "line 2: 08 is not one number", id="bad-34-08"),
    ],
)
def test_broken_parameters_are_told_with_their_line_and_not_blamed_on_dvc_yaml(params: str, said: str) -> None:
    Path("params.yaml").write_text(params)
    with pytest.raises(InputError, match=rf"^params\.yaml {said}"):
        read_graph()


def test_what_dvc_refuses_is_told() -> None:
    Path("dvc.yaml").write_text("stages:\n  a:\n    cmd: x\n    deps: [b]\n    outs: [b]\n")
    with pytest.raises(InputError, match=r"dvc\.yaml: not readable by DVC"):
        read_graph()


def test_modules_come_from_the_commands() -> None:
    assert stage_modules() == {}
    Path("dvc.yaml").write_text("stages:\n  a:\n    cmd: python -m stages.train ppo\n  b:\n    cmd: echo\n")
    assert stage_modules() == {"a": "stages.train"}
