"""No code of ours can be made to run what data says: rules of ruff's flake8-bandit, and what they do not cover.

Each rule is shown to catch what it is for. What ruff is told to pass over is listed here.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("triplex", "stages", "pipelines", "examples", "benchmarks", "plugins")
FILES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
#: modules whose readers run what the file says; PyYAML also reads 1e-5 as text
FORBIDDEN = {
    "pickle", "_pickle", "cPickle", "pickletools", "marshal", "shelve", "dbm", "joblib", "dill", "cloudpickle", "yaml",
    "jsonpickle",
}  # fmt: skip
#: keywords of any call, with the one value that may stand there
SAFE_VALUES = {"trust_remote_code": False, "allow_pickle": False, "use_safetensors": True, "weights_only": True}
#: functions that load code or pickles whatever their arguments
UNSAFE_CALLS = re.compile(r"torch\.(hub|jit|package|serialization)\.\w+|.*\.read_pickle|.*\.UnpicklingError|runpy\.\w+")
#: what ruff is told to pass over, beside the rules that pyproject.toml leaves out with its reasons
EXEMPT = {
    "pipelines/server.py": {"S310"},  # asks its own server, over http
    "triplex/rewards/plugin_worker.py": {"S102"},  # the plug-in that params.yaml lists with its hash
}


def offences(source: str) -> Iterator[str]:
    """What a file does that no rule of ruff forbids, in words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"imports {alias.name}" for alias in node.names if alias.name.split(".")[0] in FORBIDDEN)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            yield f"imports {node.module}"
        elif isinstance(node, ast.ImportFrom) and node.module == "torch" and "load" in {a.name for a in node.names}:
            yield "imports torch.load, whose calls are looked for by that name"
        elif isinstance(node, ast.Call):
            yield from _of_call(node)
        elif isinstance(node, ast.Dict):  # keywords on their way to a call
            pairs = zip(node.keys, node.values, strict=True)
            yield from _of_keywords((key.value, value) for key, value in pairs if isinstance(key, ast.Constant))


def _of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    yield from _of_keywords(keywords.items())
    if name == "torch.load" and "weights_only" not in keywords:
        yield "torch.load without weights_only=True"
    if UNSAFE_CALLS.fullmatch(name):
        yield f"calls {name}"
    if name == "__import__" or (name.endswith("import_module") and _names(call) & FORBIDDEN):
        yield f"calls {name}"
    if name == "YAML" and not {"safe", "rt"} & _names(call):
        yield "ruamel.yaml's YAML without typ='safe' or typ='rt'"


def _of_keywords(pairs: Iterable[tuple[object, ast.expr]]) -> Iterator[str]:
    for name, value in pairs:
        if isinstance(name, str) and name in SAFE_VALUES:
            safe = isinstance(value, ast.Constant) and value.value is SAFE_VALUES[name]
            if not safe:
                yield f"{name}={ast.unparse(value)}"


def _names(call: ast.Call) -> set[object]:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return {value.value for value in values if isinstance(value, ast.Constant)}


@pytest.mark.parametrize("name", FILES)
def test_no_file_reads_pickles_runs_text_or_trusts_remote_code(name: str) -> None:
    assert list(offences((ROOT / name).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("import pickle", "imports pickle"),
        ("import os, pickle as p", "imports pickle"),
        ("from pickle import loads", "imports pickle"),
        ("def f():\n    import marshal", "imports marshal"),
        ("import shelve", "imports shelve"),
        ("import joblib", "imports joblib"),
        ("import dill", "imports dill"),
        ("import cloudpickle", "imports cloudpickle"),
        ("import yaml", "imports yaml"),
        ("from yaml import safe_load", "imports yaml"),
        ("import yaml.constructor", "imports yaml.constructor"),
        ("importlib.import_module('pickle')", "calls importlib.import_module"),
        ("__import__(name)", "calls __import__"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "weights_only=False"),
        ("torch.load(path, weights_only=trusted)", "weights_only=trusted"),
        ("from torch import load", "imports torch.load, whose calls are looked for by that name"),
        ("torch.hub.load('a/b', 'c')", "calls torch.hub.load"),
        ("torch.jit.load(path)", "calls torch.jit.load"),
        ("pandas.read_pickle(path)", "calls pandas.read_pickle"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code=True"),
        ("AutoModel.from_pretrained(name, trust_remote_code=config.trust)", "trust_remote_code=config.trust"),
        ("given = {'trust_remote_code': True}", "trust_remote_code=True"),
        ("AutoModel.from_pretrained(name, use_safetensors=False)", "use_safetensors=False"),
        ("YAML(typ='unsafe')", "ruamel.yaml's YAML without typ='safe' or typ='rt'"),
        ("YAML()", "ruamel.yaml's YAML without typ='safe' or typ='rt'"),
    ],
)
def test_a_planted_offence_is_found(planted: str, found: str) -> None:
    assert list(offences(planted)) == [found]


@pytest.mark.parametrize(
    "sound",
    [
        "torch.load(path, weights_only=True)", "torch.save(state, path)", "np.load(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=False, use_safetensors=True)",
        "YAML(typ='safe', pure=True)", "import json", "text = 'import pickle'",
    ],
)  # fmt: skip
def test_what_is_sound_is_let_through(sound: str) -> None:
    assert list(offences(sound)) == []


def ruff(*arguments: str, given: str | None = None) -> str:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", *arguments]
    return subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ("import pickle\n\npickle.loads(b'')\n", "S301"),
        ("import pandas\n\npandas.read_pickle('x')\n", "S301"),
        ("import marshal\n\nmarshal.loads(b'')\n", "S302"),
        ("import yaml\n\nyaml.load('x')\n", "S506"),
        ("eval('1')\n", "S307"),
        ("exec('1')\n", "S102"),
        ("import os\n\nos.system('ls')\n", "S605"),
        ("import subprocess\n\nsubprocess.run('ls $HOME', shell=True, check=True)\n", "S602"),
        ("import subprocess\n\nsubprocess.getoutput('ls')\n", "S605"),
        ("from urllib.request import urlopen\n\nurlopen(input())\n", "S310"),
        ("import requests\n\nrequests.get('https://x.example', verify=False, timeout=1)\n", "S501"),
        ("import jinja2\n\njinja2.Environment()\n", "S701"),
        ("import tarfile\n\ntarfile.open('x').extractall()\n", "S202"),
        ("import tempfile\n\ntempfile.mktemp()\n", "S306"),
        ("import os\n\nos.chmod('x', 0o777)\n", "S103"),
        ("HOST = '0.0.0.0'\n", "S104"),
        ("try:\n    pass\nexcept Exception:\n    pass\n", "S110"),
    ],
)
@pytest.mark.parametrize("folder", ["triplex", "plugins"])
def test_a_planted_offence_is_found_by_ruff_under_the_projects_rules(folder: str, planted: str, rule: str) -> None:
    assert f" {rule} " in ruff("--stdin-filename", f"{folder}/planted.py", "-", given=planted)


def security_rules(*arguments: str) -> dict[str, set[str]]:
    """Which of flake8-bandit's rules ruff finds broken, by file."""
    found: dict[str, set[str]] = {}
    for line in ruff(*arguments, *FOLDERS).splitlines():
        if match := re.match(r"([^:]+):\d+:\d+: (S\d+) ", line):
            found.setdefault(match[1], set()).add(match[2])
    return found


def test_ruff_finds_nothing_and_passes_over_no_more_than_is_listed() -> None:
    assert security_rules() == {}
    assert security_rules("--ignore-noqa") == EXEMPT
