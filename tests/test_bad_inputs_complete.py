"""Each of the 84 bad inputs has a test whose id carries its number, and docs/bad-inputs.md names them all."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "bad-inputs.md"
NUMBERS = range(1, 85)
_NAMED = re.compile(r"`(\S+\.py)(?:::(\w+))?`")
_ROW = re.compile(r"^\| (\d\d) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def tests_by_number(request: pytest.FixtureRequest) -> dict[int, list[str]]:
    """The tests of each number, without their parameters: of this run, or of the whole suite where it lacks some."""
    ids = [item.nodeid for item in request.session.items]
    named = {f"tests/{file}" for file, _ in _NAMED.findall(PAGE.read_text(encoding="utf-8"))}
    if not named <= {name.partition("::")[0] for name in ids}:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-o",
            "addopts=--import-mode=importlib",
            "tests",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        ids = [line for line in done.stdout.splitlines() if "::" in line]
    found: dict[int, set[str]] = defaultdict(set)
    for name in ids:
        for number in re.findall(r"\bbad-(\d\d)(?!\d)|_bad_(\d\d)_", name.partition("::")[2]):
            found[int("".join(number))].add(name.partition("[")[0].removeprefix("tests/"))
    return {number: sorted(names) for number, names in found.items()}


def test_every_number_has_a_test(tests_by_number: dict[int, list[str]]) -> None:
    assert sorted(tests_by_number) == list(NUMBERS)


def test_the_page_has_a_row_a_number_and_its_tests_exist(tests_by_number: dict[int, list[str]]) -> None:
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [int(row[0]) for row in rows] == list(NUMBERS)
    for number, _, _, tests in rows:
        told = re.findall(r"`([^`]+)`", tests)
        assert told, number
        assert [name for name in told if name not in tests_by_number[int(number)]] == [], number


def test_every_test_that_the_page_names_is_there() -> None:
    for file, name in _NAMED.findall(PAGE.read_text(encoding="utf-8")):
        assert f"def {name or 'test_'}" in (ROOT / "tests" / file).read_text(encoding="utf-8")
