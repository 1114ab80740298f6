import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.overrides import apply, check, parse, write_document
from pipelines.presets import with_preset
from tests.pipelines.conftest import PARAMS
from triplex.runs.errors import InputError
from triplex.runs.params import load_yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_toy(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("no", "no"),
        ("true", True),
        ("1000", 1000),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("{a: 1}", {"a": 1}),
        ("a=b", "a=b"),
        ("'8'", "8"),
    ],
)
def test_values_are_yaml_1_2(text: str, value: object) -> None:
    assert parse([f"ppo.learning_rate={text}"]) == {"ppo.learning_rate": value}


@pytest.mark.parametrize(
    "assignment",
    [
        "ppo.learning_rate",
        "=3",
        "seed=[1",
        "seed=a: b: c",
        pytest.param("seed=2026-13-45", id="bad-43-impossible-date"),
        pytest.param("seed=" + "9" * 5000, id="bad-43-5000-digits"),
        pytest.param("seed=" + "[" * 10_000, id="bad-43-brackets"),
        pytest.param("seed=\t1\n\tx: 1", id="bad-43-tab"),
        pytest.param("seed=&a [*a]", id="bad-43-alias"),
        pytest.param("seed=\udcff", id="bad-43-no-utf-8"),
        pytest.param("seed=08", id="bad-34-08"),
        pytest.param("seed=1_000", id="bad-34-1_000"),
    ],
)
def test_what_is_no_assignment_is_refused(assignment: str) -> None:
    with pytest.raises(InputError, match="-S"):
        parse([assignment])


def test_only_the_named_values_change() -> None:
    apply({"ppo.learning_rate": 3e-6, "ppo.betas.1": 0.99, "grpo.learning_rate": 1.5, "data.paths.0": "c d.txt"})
    expected = (
        PARAMS.replace("1e-5  # of Adam", "3e-06 # of Adam")
        .replace("0.95]", "0.99]")
        .replace("{learning_rate: 2e-5}", "{learning_rate: 1.5}")
        .replace('"a.txt"', '"c d.txt"')
    )
    assert Path("params.yaml").read_text() == expected
    assert load_yaml(Path("params.yaml"))["ppo"]["learning_rate"] == 3e-6


def test_nothing_to_change_leaves_the_file_alone() -> None:
    before = Path("params.yaml").stat().st_mtime_ns
    apply({})
    assert Path("params.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("ppo.learing_rate", "'ppo.learning_rate'"),
        ("sed", "'seed'"),
        ("ppo.betas.2", "'ppo.betas.[01]'"),
        ("seed.x", "'seed'"),
        pytest.param("data.paths.²", "'data.paths.[01]'", id="no-digit"),
    ],
)
def test_unknown_key_names_the_nearest_and_changes_nothing(key: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"unknown key\n.*did you mean {nearest}"):
        apply({"seed": 2, key: 1})
    assert Path("params.yaml").read_text() == PARAMS


def test_a_list_on_one_line_stays_on_it_with_its_comment_however_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # whose stages say what is valid
    file = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", file)
    before = file.read_text()
    for names in (["rloo", "dapo"], ["dr_grpo", "ppo"], ["ppo", "grpo"]):
        apply({"algorithms": names, "ppo.value": {"kind": "head"}}, file)
        assert f"algorithms: [{', '.join(names)}] " in file.read_text()
    changed = [line for line in file.read_text().splitlines() if line not in before.splitlines()]
    assert {line.split("#")[0].strip() for line in changed} <= {"algorithms: [ppo, grpo]", "value: {kind: head}"}


def test_a_section_written_whole_leaves_the_blank_line_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", file)
    apply({"compute": load_yaml(file)["compute"] | {"max_failures": 1}}, file)
    assert "max_failures: 1\n\ndata:" in file.read_text()
    write_document(*with_preset("default", None, path=file), file)
    assert file.read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "train.kl_coef",
            "abc",
            "'abc' is not of type 'number'\n  remedy: it takes: number, ≥ 0\n  meaning: reward or loss per nat",
        ),
        ("train.kl_coef", -1, "-1 is less than the minimum of 0"),
        ("train.backend", "tlr", "did you mean 'trl'?"),
        ("algorithms", ["ppo", "pppo"], r"algorithms[1]: 'pppo' is not one of"),
        ("train.kl_coff", 1, "did you mean 'train.kl_coef'?"),
        ("foo", 1, "known: algorithms, base, baseline"),
    ],
)
def test_what_the_schema_refuses_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, key: str, value: object, said: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError) as raised:
        check({key: value})
    assert said in str(raised.value)


def test_a_mistake_in_a_run_is_told_before_anything_heavy_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program = """if True:
        import sys
        sys.argv = ["pipelines", "run", "-S", "train.kl_coef=abc"]
        try:
            from pipelines.__main__ import main
            main()
        except SystemExit as end:
            print(end.code, sys.modules.keys() & {"torch", "transformers", "prefect", "dvc"})
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "2 set()\n"
    assert "'abc' is not of type 'number'" in done.stderr
