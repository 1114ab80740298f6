"""Plug-ins through their real process: what they may return, what they may not, and what never reaches this process."""

import gc
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from pydantic import ValidationError

from triplex.rewards import plugin
from triplex.rewards.calibration import Samples
from triplex.rewards.composite import CompositeReward, Part
from triplex.rewards.plugin import PluginConfig, PluginReward, check_names, check_plugin, plugin_file
from triplex.runs.errors import InputError

ROOT = Path(__file__).parents[3]
PROMPTS, COMPLETIONS, IDS = ["a", "b", "c"], [" one", " two words", ""], [[5, 0], [6, 7, 0], [0]]
SAMPLES = Samples(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=IDS, columns={})
HEAD = "def score(prompts, completions, completion_ids, **columns):\n"
LENGTHS = HEAD + "    return [float(len(text)) for text in completions]\n"

Open = Callable[..., PluginReward]


def entry(**changed: Any) -> dict[str, Any]:
    return {"name": "mine", "path": "plugins/mine.py", "function": "score", "weight": 1.0, "timeout_s": 30.0} | changed


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`opened(source, timeout_s=30.0)`: the plug-in of this source; all are closed after the test."""
    monkeypatch.chdir(tmp_path)  # stages too give a path that means nothing in the plug-in's own working directory
    rewards: list[PluginReward] = []

    def open_source(source: str, **changed: Any) -> PluginReward:
        file = Path("mine.py")
        file.write_text(source)
        config = PluginConfig(**entry(sha256=hashlib.sha256(source.encode()).hexdigest(), **changed))
        rewards.append(PluginReward(config, file))
        return rewards[-1]

    yield open_source
    for reward in rewards:
        reward.close()


def call(reward: PluginReward, **columns: Any) -> list[float | None]:
    return reward(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=IDS, **columns)


def body(*lines: str) -> str:
    return HEAD + "".join(f"    {line}\n" for line in lines)


@pytest.fixture(autouse=True)
def _of_other_tests() -> None:
    """What is kept loaded by tests of other files is none of these tests' leavings."""
    OTHERS.clear()
    OTHERS.update(child.pid for child in psutil.Process().children(recursive=True))


OTHERS: set[int] = set()


def workers() -> list[psutil.Process]:
    """This process's descendants that run a plug-in, or were started by one."""
    children = [child for child in psutil.Process().children(recursive=True) if child.pid not in OTHERS]
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


def gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


# --- what it is given and what it may return


def test_values_come_back_one_a_completion(opened: Open) -> None:
    assert call(opened(LENGTHS)) == [4.0, 10.0, 0.0]


def test_none_does_not_apply(opened: Open) -> None:
    assert call(opened(body("return [None, 1, None]"))) == [None, 1.0, None]


def test_prompts_ids_and_columns_reach_it_and_callables_do_not(opened: Open) -> None:
    reward = opened(body("assert set(columns) == {'label', 'note'}, sorted(columns)",
                         "return [len(p + c) + ids[-1] + l for p, c, ids, l in",
                         "        zip(prompts, completions, completion_ids, columns['label'])]"))  # fmt: skip
    values = call(reward, label=[1, 2, 3], note="all", log_extra=print, trainer_state=object())
    assert values == [6.0, 13.0, 4.0]


def test_a_column_that_is_no_json_is_named(opened: Open) -> None:
    reward = opened(LENGTHS)
    for value in (object(), {1, 2}, [float("nan")] * 3):
        with pytest.raises(InputError, match=r"reward.plugins mine: column 'odd' is no JSON"):
            call(reward, odd=value)
    assert call(reward) == [4.0, 10.0, 0.0]


def test_any_text_survives_the_way_there_and_back(opened: Open) -> None:
    odd = ["\u2028\n\r\x00", "\ud800", "日本語 👩‍👩‍👧", '"quoted\\"']
    reward = opened(body("return [sum(map(ord, text)) for text in completions]"))
    assert reward(odd, odd, [[0]] * 4) == [float(sum(map(ord, text))) for text in odd]


def test_a_batch_that_no_pipe_holds(opened: Open) -> None:
    texts = ["x" * 100_000] * 50
    assert opened(LENGTHS)(texts, texts, [[0]] * 50) == [100_000.0] * 50


TENSORS = """
import numpy, torch
VALUES = {
    "float64": lambda: torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64),
    "bfloat16": lambda: torch.tensor([0.5, 1.0, -2.0], dtype=torch.bfloat16),
    "int8": lambda: torch.tensor([0, 1, -2], dtype=torch.int8),
    "bool": lambda: torch.tensor([False, True, True]),
    "grad": lambda: torch.tensor([0.5, 1.0, -2.0], requires_grad=True),
    "array": lambda: numpy.array([0.5, 1.0, -2.0], dtype=numpy.float16),
    "list of tensors": lambda: [torch.tensor(0.5), torch.tensor(1, dtype=torch.int64), torch.tensor(-2.0).half()],
    "list of numpy scalars": lambda: [numpy.float32(0.5), numpy.int64(1), None],
    "tuple": lambda: (0.5, True, -2),
    "nan": lambda: torch.tensor([0.5, float("nan"), -2.0]),
    "scalar": lambda: torch.tensor(0.5),
    "column": lambda: torch.zeros(3, 1),
}
def score(prompts, completions, completion_ids, **columns):
    return VALUES[columns["kind"]]()
"""


def test_bad_69_tensors_and_arrays_of_any_type_become_numbers(opened: Open) -> None:
    reward = opened(TENSORS)
    for kind in ("float64", "bfloat16", "grad", "array", "list of tensors", "tuple"):
        assert call(reward, kind=kind) == [0.5, 1.0, -2.0]
    assert call(reward, kind="int8") == [0.0, 1.0, -2.0]
    assert call(reward, kind="bool") == [0.0, 1.0, 1.0]
    assert call(reward, kind="list of numpy scalars") == [0.5, 1.0, None]
    for kind, said in (("nan", "returned nan for completion 1"), ("scalar", "returned Tensor, not one number"),
                       ("column", r"returned \[0.0\] for completion 0")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            call(reward, kind=kind)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        pytest.param("[1.0, 2.0]", "returned 2 values for 3 completions", id="bad-67-too-few"),
        pytest.param("[1.0] * 4", "returned 4 values for 3 completions", id="bad-67-too-many"),
        pytest.param("1.0", "returned float, not one number a completion", id="bad-67-one-number"),
        pytest.param("{0: 1.0}", "returned dict, not one", id="bad-67-mapping"),
        pytest.param("None", "returned NoneType, not one", id="bad-67-none"),
        pytest.param("[0.0, float('nan'), 0.0]", "returned nan for completion 1: ' two words'", id="bad-68-nan"),
        pytest.param("[0.0, 0.0, float('-inf')]", "returned -inf for completion 2: ''", id="bad-68-inf"),
        pytest.param("['0.5', 0.0, 0.0]", "returned '0.5' for completion 0: ' one'", id="bad-68-str"),
        pytest.param("[0.0, 1e39, 0.0]", r"returned 1e\+39 for completion 1", id="bad-68-no-float32"),
        pytest.param("[10**400, 0.0, 0.0]", r"returned 10*\.\.\.0* for completion 0", id="bad-68-huge-integer"),
        pytest.param("[0.0, 1j, 0.0]", "returned 1j for completion 1", id="bad-68-complex"),
    ],
)
def test_what_is_no_reward_is_refused_with_its_sample(opened: Open, value: str, said: str) -> None:
    reward = opened(body(f"return {value}"))
    with pytest.raises(InputError, match=f"^reward.plugins mine: {said}") as raised:
        call(reward)
    assert "def score(prompts, completions, completion_ids, **columns)" in raised.value.remedy


def test_in_a_composite(opened: Open) -> None:
    output = CompositeReward({"mine": Part(opened(LENGTHS), 0.5)}).score(PROMPTS, COMPLETIONS, IDS)
    assert output.components["mine"].tolist() == [2.0, 5.0, 0.0]


# --- loading


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("import no_such_package\n" + LENGTHS, ["line 1, in <module>", "import no_such_package",
                     "ModuleNotFoundError: No module named 'no_such_package'"], id="bad-65-missing-package"),
        pytest.param("def score(:\n", ["mine.py\", line 1", "SyntaxError"], id="bad-65-syntax"),
        pytest.param("print('about to leave')\nraise SystemExit(3)", ["SystemExit: 3", "it printed:",
                     "about to leave"], id="bad-65-exits"),
        pytest.param("import plugins.other\n" + LENGTHS, ["ModuleNotFoundError"], id="bad-75-another-plugin"),
        pytest.param("import other\n" + LENGTHS, ["ModuleNotFoundError"], id="bad-75-a-file-beside-it"),
        pytest.param("import repetition\n" + LENGTHS, ["ModuleNotFoundError"], id="bad-75-a-file-of-the-project"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_shows_its_trace(opened: Open, tmp_path: Path, source: str, said: list[str]) -> None:
    (tmp_path / "other.py").write_text("")
    with pytest.raises(InputError) as raised:
        opened(source)
    assert raised.value.where == "reward.plugins mine"
    assert raised.value.what.startswith("cannot be imported")
    assert raised.value.remedy == "mend plugins/mine.py, and its sha256 in params.yaml"
    assert [text for text in said if text not in raised.value.what] == []
    assert "plugin_worker" not in raised.value.what  # the plug-in's own lines only
    assert workers() == []


def test_bad_71_an_import_that_hangs_is_ended(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "LOAD_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"took longer than 0\.5 s"):
        opened("import time\ntime.sleep(1000)")
    assert workers() == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("def other(): pass", "has no function 'score'; it defines other", id="bad-66-no-function"),
        pytest.param("score = 3", "has no function 'score'; it defines none", id="bad-66-no-callable"),
        pytest.param("def score(texts): pass", r"score\(texts\) cannot be called", id="bad-66-other-names"),
        pytest.param("def score(prompts, completions, completion_ids): pass", "got an unexpected keyword",
                     id="bad-66-no-columns"),
        pytest.param("def score(prompts, completions, completion_ids, label, **columns): pass",
                     "missing a required argument: 'label'", id="bad-66-more"),
        pytest.param("def score(prompts, /, completions, completion_ids): pass", "cannot be called",
                     id="bad-66-positional-only"),
        pytest.param("async def score(**columns): pass", "coroutine or a generator", id="bad-66-async"),
        pytest.param("def score(**columns): yield 1", "coroutine or a generator", id="bad-66-generator"),
    ],
)  # fmt: skip
def test_a_wrong_signature_is_refused_at_load(opened: Open, source: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        opened(source)
    assert workers() == []


def test_a_signature_may_leave_to_the_columns_what_it_does_not_read(opened: Open) -> None:
    assert call(opened("def score(completions, **rest): return [len(text) for text in completions]")) == [4, 10, 0]


# --- configuration


def test_an_entry_of_params() -> None:
    config = PluginConfig(**entry(sha256="0" * 64, clip={"low": -1.0, "high": 1.0}))
    assert (config.name, config.function, config.timeout_s, config.weight) == ("mine", "score", 30.0, 1.0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"path": "/etc/mine.py"}, "plugins/NAME.py", id="bad-45-absolute"),
        pytest.param({"path": "plugins/../mine.py"}, "plugins/NAME.py", id="bad-45-above"),
        pytest.param({"path": "elsewhere/mine.py"}, "plugins/NAME.py", id="bad-75-another-folder"),
        pytest.param({"path": "plugins"}, "plugins/NAME.py", id="bad-75-folder"),
        pytest.param({"name": "two words"}, "pattern", id="name-is-no-identifier"),
        pytest.param({"name": "../up"}, "pattern", id="bad-45-name-leads-out"),
        pytest.param({"name": "line\n"}, "pattern", id="name-with-newline"),
        pytest.param({"function": "os.system"}, "no name of a Python function", id="function-is-no-identifier"),
        pytest.param({"function": "lambda"}, "no name of a Python function", id="function-is-a-keyword"),
        pytest.param({"timeout_s": 0}, "greater than 0", id="bad-40-timeout"),
        pytest.param({"sha256": None}, "null", id="bad-38-null"),
        pytest.param({"clip": None}, "null", id="bad-38-null-clip"),
        pytest.param({"sha": "0"}, "Extra inputs", id="bad-36-unknown-key"),
    ],
)
def test_a_mistake_in_the_entry_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PluginConfig(**entry(**changed))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param(["mine", "sentiment"], "'sentiment' belongs to a part", id="bad-77-built-in"),
        pytest.param(["Perplexity"], "'Perplexity' belongs to a part", id="bad-77-built-in-in-capitals"),
        pytest.param(["mine", "yours", "Mine"], "'Mine' belongs to the plug-in of plugins/mine.py", id="bad-77-twice"),
    ],
)
def test_a_name_that_is_taken_is_refused(names: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_names([PluginConfig(**entry(name=name)) for name in names])


def test_other_names_are_free() -> None:
    check_names([PluginConfig(**entry(name=name)) for name in ("mine", "yours", "length_of_mine")])


def test_bad_78_the_error_without_a_hash_tells_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("abc")
    # of the three bytes "abc", as FIPS 180-2 gives it (appendix B.1)
    with pytest.raises(InputError, match=r"sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad$"):
        PluginReward(PluginConfig(**entry()), tmp_path / "mine.py")


def test_bad_78_a_changed_file_does_not_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "mine.py", tmp_path / "ran"
    file.write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(InputError, match=r"SHA-256 of .*mine.py is not 0000"):
        PluginReward(PluginConfig(**entry(sha256="0000")), file)
    assert not mark.exists()


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    config = PluginConfig(**entry(sha256=hashlib.sha256(b"\xff").hexdigest()))
    with pytest.raises(InputError, match=r"mine.py cannot be read"):
        PluginReward(config, tmp_path / "mine.py")
    (tmp_path / "mine.py").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 0"):
        PluginReward(config, tmp_path / "mine.py")


def test_the_file_lies_in_the_folder_itself(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    config, file = PluginConfig(**entry()), tmp_path / "plugins/mine.py"
    with pytest.raises(InputError, match=r"plugins/mine\.py is no file"):
        plugin_file(config, tmp_path)
    (tmp_path / "outside.py").write_text("")
    file.symlink_to("../outside.py")
    with pytest.raises(InputError, match=r"plugins/mine\.py is a link to .*outside\.py"):
        plugin_file(config, tmp_path)
    file.unlink()
    file.write_text("")
    assert plugin_file(config, tmp_path) == file


def test_bad_75_only_what_is_listed_runs(opened: Open, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "unlisted.py").write_text(f"open({str(mark)!r}, 'w')")
    (tmp_path / "sitecustomize.py").write_text(f"open({str(mark)!r}, 'w')")
    check_plugin(opened(LENGTHS), SAMPLES)
    assert not mark.exists()


# --- failing


def test_bad_70_the_sample_that_fails_is_named_with_the_plugins_own_trace(opened: Open) -> None:
    reward = opened(body("print('reading', len(completions))", "return [1 / len(text) for text in completions]"))
    with pytest.raises(InputError) as raised:
        call(reward)
    lines = raised.value.what.splitlines()
    assert lines[0] == "fails for completion 2: ''"
    assert "an empty one too" in raised.value.remedy
    assert "  ZeroDivisionError: division by zero" in lines
    assert any("return [1 / len(text) for text in completions]" in line for line in lines)
    assert lines[-2:] == ["  it printed:", "  reading 1"]
    assert reward(["a"], ["b"], [[0]]) == [1.0]  # it goes on


def test_bad_70_what_fails_only_as_a_batch_says_so(opened: Open) -> None:
    reward = opened(body("assert len(completions) < 3", "return [0.0] * len(completions)"))
    with pytest.raises(InputError, match="fails for a batch of 3, and for no completion alone") as raised:
        call(reward)
    assert "AssertionError" in raised.value.what


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("__import__('time').sleep(1000)", id="bad-71-sleeps"),
        pytest.param("__import__('re').match('(a+)+b', 'a' * 64)", id="bad-71-holds-the-interpreter"),
        pytest.param("while True: print('x' * 1000)", id="bad-71-prints-without-end"),
        pytest.param("__import__('subprocess').run(['sleep', '1000'])", id="bad-71-waits-for-a-child"),
    ],
)
def test_what_hangs_is_ended_with_all_that_it_started(opened: Open, line: str) -> None:
    reward = opened(body("print('started')", line), timeout_s=1.0)
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"reward.plugins mine: took longer than 1 s and was ended") as raised:
        call(reward)
    assert time.monotonic() - begin < 20  # and not 1000
    assert "it printed:" in raised.value.what
    assert workers() == []
    with pytest.raises(InputError, match="its process has ended"):
        call(reward)


def test_a_sigterm_of_all_processes_leaves_it_to_the_stage_to_end_it(opened: Open) -> None:
    reward = opened("import time\n" + body("time.sleep(0.3)", "return [1.0 for _ in completions]"))
    for process in workers():
        process.terminate()
    assert reward(["a"], ["b"], [[0]]) == [1.0]
    threading.Timer(0.1, lambda: [process.terminate() for process in workers()]).start()
    assert reward(["a"], ["b"], [[0]]) == [1.0]
    reward.close()
    assert workers() == []


@pytest.mark.parametrize(
    ("line", "code"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 11)", 139)], ids=["exit", "signal"]
)
def test_bad_72_a_process_that_ends_is_told_with_its_code(opened: Open, line: str, code: int) -> None:
    reward = opened("import os\n" + body(line))
    with pytest.raises(InputError, match=f"its process has ended, exit code {code}"):
        call(reward)


def test_bad_72_sys_exit_is_an_error_of_the_plugin(opened: Open) -> None:
    with pytest.raises(InputError, match=r"fails for completion 0: ' one'\n(.*\n)*  SystemExit: 0"):
        call(opened("import sys\n" + body("sys.exit(0)")))


# --- what must not leak

LEAKS = """
import ctypes, numpy, os, random, signal, subprocess, sys, threading, time, torch
def score(prompts, completions, completion_ids, **columns):
    print("x" * 10_000_000)
    random.seed(1); numpy.random.seed(1); torch.manual_seed(1)
    random.random(); numpy.random.random(); torch.rand(3)
    os.chdir("/"); os.environ["LEAKED"] = "1"; os.umask(0o077)
    sys.path.insert(0, "/leaked"); sys.stdout.close(); os.close(1)
    torch.set_num_threads(2 if torch.get_num_threads() == 1 else 1)
    torch.set_default_dtype(torch.float64)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    random.random = lambda: 4
    threading.Thread(target=time.sleep, args=(1000,)).start()
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    os.fork()  # the child comes back from this call too
    sys.stdin.read()
    return [float(len(text)) for text in completions]
"""


def state() -> dict[str, Any]:
    return {
        "torch": hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
        "numpy": hashlib.sha256(np.random.get_state()[1].tobytes()).hexdigest(),  # type: ignore[index, union-attr]
        "random": hash(random.getstate()),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "cwd": os.getcwd(),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "umask": os.umask(os.umask(0o022)),
        "sigint": signal.getsignal(signal.SIGINT),
        "function": random.random,
        "modules": "plugin" in sys.modules,
        "bytecode": sorted(path.name for path in Path("plugins").rglob("*.pyc")),
    }


def test_bad_72_nothing_that_it_changes_reaches_this_process(opened: Open, capfd: pytest.CaptureFixture[str]) -> None:
    before = state()
    reward = opened(LEAKS)
    assert call(reward) == [4.0, 10.0, 0.0]
    assert len(workers()) >= 3
    reward.close()
    assert state() == before
    assert workers() == []
    assert capfd.readouterr() == ("", "")


def test_bad_72_a_forked_child_that_comes_back_from_the_call_answers_nothing(opened: Open) -> None:
    reward = opened("import os\n" + body("os.fork()", "return [float(len(text)) for text in completions]"))
    for num in range(1, 21):
        assert reward(["p"], ["x" * num], [[0]]) == [float(num)]


def test_it_sees_no_more_of_the_environment_than_is_documented(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    reward = opened("import os\n" + body("raise ValueError(sorted(os.environ), os.getcwd() == os.environ['HOME'])"))
    with pytest.raises(InputError) as raised:
        call(reward)
    told = raised.value.what
    assert "MY_SECRET" not in told
    assert "PYTHONPATH" not in told
    assert "'PATH', 'PYTHONHASHSEED', 'TMPDIR'], True" in told


def test_its_folder_goes_with_it(opened: Open) -> None:
    reward = opened("import os\n" + body("open('left', 'w')", "raise ValueError(os.getcwd())"))
    with pytest.raises(InputError) as raised:
        call(reward)
    folder = Path(raised.value.what.splitlines()[-1].split("ValueError: ")[1])
    assert (folder / "left").is_file()
    reward.close()
    assert not folder.exists()


def test_the_same_numbers_whatever_was_drawn_here(opened: Open) -> None:
    source = "import random\nrandom.seed(5)\n" + body("return [random.random() for _ in completions]")
    first = call(opened(source))
    random.random()
    assert call(opened(source)) == first
    assert call(opened(body("return [hash(text) % 1000 for text in completions]"))) == call(
        opened(body("return [hash(text) % 1000 for text in completions]"))
    )


# --- ends


OWNER = """
import hashlib, sys, time
from pathlib import Path
from triplex.rewards.plugin import PluginConfig, PluginReward
file = Path(sys.argv[1])
sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
reward = PluginReward(PluginConfig(name="mine", path="plugins/mine.py", function="score", sha256=sha256,
                                   weight=1.0, timeout_s=1000.0), file)
print(*(int(pid) for pid in reward(["a", "b"], ["c", "d"], [[0], [0]])), flush=True)
"""
PIDS = "import os, subprocess\nCHILD = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n" + body(
    "return [os.getpid(), CHILD.pid]"
)


@pytest.mark.parametrize("then", ["time.sleep(1000)", "reward(['a'], ['b'], [[0]])"], ids=["idle", "in-a-call"])
def test_a_killed_owner_takes_all_with_it(tmp_path: Path, then: str) -> None:
    hang = "import time\n" + PIDS.replace("    return", "    len(completions) == 2 or time.sleep(1000)\n    return")
    (tmp_path / "mine.py").write_text(hang)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER + then, str(tmp_path / "mine.py")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    time.sleep(0.2)
    owner.kill()
    owner.communicate()
    assert [pid for pid in pids if not gone(pid)] == []


def test_the_end_of_the_interpreter_ends_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PIDS)
    command = [sys.executable, "-c", OWNER, str(tmp_path / "mine.py")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert [pid for pid in map(int, ran.stdout.split()) if not gone(pid)] == []


def test_close_with_and_collection_end_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LENGTHS)
    config = PluginConfig(**entry(sha256=hashlib.sha256(LENGTHS.encode()).hexdigest()))
    with PluginReward(config, tmp_path / "mine.py"):
        assert len(workers()) == 2
    assert workers() == []
    reward = PluginReward(config, tmp_path / "mine.py")
    assert len(workers()) == 2
    del reward
    gc.collect()
    assert workers() == []


# --- the checks before a run


def test_a_sound_plugin_passes(opened: Open) -> None:
    check_plugin(opened(LENGTHS), SAMPLES)
    check_plugin(opened(body("return [None if not text else 1.0 for text in completions]")), SAMPLES)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("import random\n" + body("return [random.random() for _ in completions]"),
                     "in the same batch scored again", id="bad-73-draws"),
        pytest.param("SEEN = []\n" + body("SEEN.append(1)", "return [len(SEEN) * 1e-9 for _ in completions]"),
                     "in the same batch scored again", id="bad-73-counts-its-calls"),
        pytest.param(body("return [i for i, _ in enumerate(completions)]"),
                     "in the batch in another order", id="bad-74-place"),
        pytest.param(body("return [float(text == completions[0]) for text in completions]"),
                     "in the batch in another order", id="bad-74-first"),
        pytest.param(body("mean = sum(map(len, completions)) / len(completions)",
                          "return [len(text) - mean for text in completions]"), "alone", id="bad-74-batch-mean"),
    ],
)  # fmt: skip
def test_a_value_depends_on_its_own_sample_only(opened: Open, source: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"^reward.plugins mine: completion \d: .* gets .*, and {said} "):
        check_plugin(opened(source), SAMPLES)


def test_bad_24_the_empty_completion_is_tried_even_if_no_sample_is_empty(opened: Open) -> None:
    samples = Samples(prompts=["a"], completions=[" one"], completion_ids=[[5, 0]], columns={"reference": ["x"]})
    seen = opened(body("return [1 / len(text) for text in completions]"))
    with pytest.raises(InputError, match=r"fails for completion 1: ''\n(.*\n)*  ZeroDivisionError"):
        check_plugin(seen, samples)


def test_sums_of_another_shape_may_differ_in_their_last_digits(opened: Open) -> None:
    check_plugin(opened(body("return [len(t) + 1e-7 * len(completions) for t in completions]")), SAMPLES)


LEAK = "KEPT = []\n" + body("KEPT.append(bytearray(b'x') * (24 * 2**20))", "return [0.0] * len(completions)")


def test_bad_76_memory_that_keeps_growing_is_told_with_figures(opened: Open, capfd: pytest.CaptureFixture[str]) -> None:
    reward = opened(LEAK)
    for _ in range(8):
        call(reward)
    told = capfd.readouterr().err
    assert told.startswith("warning: reward.plugins mine: its memory keeps growing: ")
    sizes = [int(part.split()[0]) for part in told.partition("growing: ")[2].split(", ")]
    assert sizes[1] - sizes[0] == pytest.approx(48, abs=4)  # calls 3 and 4
    assert sizes[2] - sizes[1] == pytest.approx(96, abs=4)  # calls 5 to 8


def test_bad_76_memory_that_is_taken_once_is_no_leak(opened: Open, capfd: pytest.CaptureFixture[str]) -> None:
    reward = opened(LEAK.replace("    KEPT", "    len(KEPT) == 4 or KEPT"))
    for _ in range(64):
        call(reward)
    assert capfd.readouterr().err == ""


# --- the example


def test_the_example_in_the_folder_plugins() -> None:
    file = ROOT / "plugins/full_stop.py"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    config = PluginConfig(**entry(path="plugins/full_stop.py", function="full_stop", sha256=sha256))
    assert plugin_file(config, ROOT) == file
    texts = [" It works.", " It works. And then it", ' "It works!" ', "", "  ", " 好きです。", " Works?)", " ..., and"]
    with PluginReward(config, file) as reward:
        assert reward([""] * 8, texts, [[0]] * 8) == [1.0, 0.0, 1.0, None, None, 1.0, 1.0, 0.0]
        check_plugin(reward, Samples(prompts=[""] * 8, completions=texts, completion_ids=[[0]] * 8, columns={}))
