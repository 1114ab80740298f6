"""What the architecture is held to: the direction of imports, the deps of dvc.yaml, the README's tree."""

import ast
import importlib
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from pipelines.closure import closure, imports
from triplex.rl.algorithms import ALGORITHMS
from triplex.runs.params import SECTIONS, Algorithms, load_yaml

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipelines", "stages", "triplex")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in MODULES]
STAGES = load_yaml(ROOT / "dvc.yaml")["stages"]
FRAMEWORKS = {"trl", "unsloth", "openrlhf", "ray", "deepspeed"}
MATHS = [
    "triplex/perplexity/levels.py",
    "triplex/rl/advantages.py",
    "triplex/rl/kl.py",
    "triplex/rl/kl_control.py",
    "triplex/rl/losses.py",
    "triplex/rl/masked.py",
]


def imported_packages(name: str) -> set[str]:
    return {found.split(".")[0] for found in imports(ROOT / name)}


@pytest.mark.parametrize("name", NAMES)
def test_imports_go_from_pipelines_to_stages_to_triplex(name: str) -> None:
    above = PACKAGES[: PACKAGES.index(name.split("/")[0])]
    assert not imported_packages(name) & set(above)


@pytest.mark.parametrize("name", MATHS)
def test_maths_imports_torch_and_the_standard_library_only(name: str) -> None:
    own = {found for found in imports(ROOT / name) if found.startswith("triplex.")}
    assert imported_packages(name) - {"triplex"} <= {"torch", *sys.stdlib_module_names}
    assert all(found.split(".")[1] in ("rl", "perplexity") for found in own)
    assert {f"{'/'.join(found.split('.')[:3])}.py" for found in own} <= set(MATHS)


@pytest.mark.parametrize("name", NAMES)
def test_a_framework_is_imported_only_in_the_file_named_after_it(name: str) -> None:
    assert imported_packages(name) & FRAMEWORKS <= {Path(name).stem.partition("_")[0]}  # trl.py, trl_policy.py


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("__init__.py")])
def test_packages_hold_a_docstring_only(name: str) -> None:
    body = ast.parse((ROOT / name).read_text(encoding="utf-8")).body
    assert [type(node) for node in body] == [ast.Expr]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_import_closure(stage: str) -> None:
    listed = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    needed = closure(f"stages.{stage}", ROOT)
    assert listed == needed, f"missing {sorted(needed - listed)}, too many {sorted(listed - needed)}"


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_those_that_the_stage_reads(stage: str) -> None:
    """The file without sections is all of its values, of a stage whose parameters allow more than they name."""
    module = importlib.import_module(f"stages.{stage}")
    models = module.PARAMS if "matrix" in STAGES[stage] else {"": module.Params}
    for item, model in models.items():
        if model.model_config["extra"] == "allow":
            assert STAGES[stage]["params"] == [{"params.yaml": None}]
        else:
            listed = [re.sub(r"\$\{item\.\w+\}", item, section) for section in STAGES[stage]["params"]]
            assert set(listed) == set(model.model_fields)


def test_no_stage_depends_on_the_text_of_params() -> None:
    """Its values are `params`; among `deps` a comment would run the stage again."""
    assert not [stage for stage, declared in STAGES.items() if "params.yaml" in declared["deps"]]


def test_every_section_of_params_has_a_reader() -> None:
    listed = [section for stage in STAGES.values() for section in stage["params"]]
    read = {section for section in listed if isinstance(section, str)} - {"${item.algorithm}"}
    assert read | set(ALGORITHMS) == set(SECTIONS) == set(load_yaml(ROOT / "params.yaml"))


def test_every_algorithm_can_be_selected() -> None:
    names = typing.get_args(typing.get_args(typing.get_args(Algorithms)[0])[0])
    assert list(names) == list(ALGORITHMS)


def test_the_readme_has_a_line_for_every_file() -> None:
    block = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The tree")[2].split("```")[1]
    lines = [line.split(maxsplit=1) for line in block.splitlines()[1:] if line.strip()]
    assert all(len(line) == 2 for line in lines), "a line without a description"
    named = {line[0] for line in lines}
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    there = {name for name in listing.stdout.split() if not name.endswith("__init__.py") and (ROOT / name).is_file()}
    assert {name for name in named if name.split("/")[0] in PACKAGES and not name.endswith("/")} == there
    written_by_stages = {"data/", "models/", "reports/"}
    assert all((ROOT / name).exists() for name in named - written_by_stages)
