import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from pydantic import Field

from triplex.runs import history, lock
from triplex.runs.continuation import GO_ON_FROM
from triplex.runs.errors import Exit, InputError, errors_in_words
from triplex.runs.params import ComputeConfig, Section, Seed, ZeroConfig
from triplex.runs.seeds import derive_seed
from triplex.runs.stage import Run, run_stage

DVC_YAML = """\
stages:
  make:
    cmd: python make.py
    deps: [in.txt, {folder: {cache: false}}]
    outs: [out.txt, reports/manifests/make.json]
  train:
    matrix: {algorithm: "${algorithms}"}
    cmd: python train.py ${item.algorithm}
    deps: [in.txt]
    outs: ["models/${item.algorithm}", "reports/manifests/train-${item.algorithm}.json"]
    metrics: [{"reports/${item.algorithm}.json": {cache: false}}]
    plots: ["reports/${item.algorithm}.tsv"]
"""

SCRIPT = """\
import sys, time
from pathlib import Path
from triplex.runs.errors import InputError
from triplex.runs.guard import guarded
from triplex.runs.progress import StepProgress
from triplex.runs.params import ComputeConfig, ZeroConfig, Section, Seed
from triplex.runs.errors import errors_in_words
from triplex.runs.stage import run_stage

class Params(Section):
    seed: Seed
    compute: ComputeConfig

def main():
    zero = {"zero_stage": 0, "offload": False}
    compute = ComputeConfig(
        executor="local", num_workers=1, threads=1, precision="float32", deepspeed=zero, max_failures=0
    )
    with errors_in_words(), run_stage("make", Params(seed=1, compute=compute)) as run:
        match sys.argv[1]:
            case "fail":
                raise InputError("in.txt", "is wrong", "mend it")
            case "wait":
                with StepProgress("make", 240) as progress:
                    progress.advance(40)
                    (run.state / "checkpoint").write_text("x")
                    Path("started").touch()
                    time.sleep(60)
        Path("out.txt").write_text("done")

guarded(main)
"""


class Params(Section):
    seed: Seed
    compute: ComputeConfig
    size: int = Field(ge=1)


def params(*, seed: int = 7, size: int = 3) -> Params:
    zero = ZeroConfig(zero_stage=0, offload=False)
    compute = ComputeConfig(
        executor="local", num_workers=1, threads=1, precision="float32", deepspeed=zero, max_failures=0
    )
    return Params(seed=seed, compute=compute, size=size)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a dvc.yaml in which stages run; what a stage sets in its process is put back."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(DVC_YAML)
    Path("params.yaml").write_text("algorithms: [ppo, grpo]\n")
    Path("script.py").write_text(SCRIPT)
    Path("in.txt").write_text("input")
    Path("folder").mkdir()
    Path("folder/a").write_text("a")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    torch.use_deterministic_algorithms(False)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def make(text: str = "output", **values: int) -> Run:
    with run_stage("make", params(**values)) as run:
        Path("out.txt").write_text(text)
    return run


def states() -> list[Path]:
    return sorted(Path(".triplex/state").glob("[!.]*"))


def script(mode: str) -> list[str]:
    return [sys.executable, "script.py", mode]


def test_equal_runs_write_equal_manifests() -> None:
    make()
    first = Path("reports/manifests/make.json").read_bytes()
    time.sleep(0.01)
    make()
    assert Path("reports/manifests/make.json").read_bytes() == first
    make(text="another output")
    assert Path("reports/manifests/make.json").read_bytes() != first


def test_who_restores_a_run_learns_when_it_was_and_how_long_it_took() -> None:
    assert history.find("make") is None
    make()
    manifest = Path("reports/manifests/make.json").read_bytes()
    first = history.find("make")
    assert first is not None
    assert time.strptime(first.ended, "%Y-%m-%d %H:%M UTC") <= time.gmtime()
    assert 0 <= first.seconds < 60
    make(size=4)
    assert len(list(Path(".triplex/history").iterdir())) == 2
    Path("reports/manifests/make.json").write_bytes(manifest)
    assert history.find("make") == first


def test_seed_is_the_stages_own() -> None:
    assert make().seed == derive_seed(7, "make")
    assert make(seed=8).seed == derive_seed(8, "make")


def test_the_stage_starts_from_its_seed() -> None:
    def draw() -> float:
        with run_stage("make", params()):
            Path("out.txt").write_text("")
            return float(torch.rand(()))

    first = draw()
    torch.rand(10)
    assert draw() == first


def test_state_is_there_for_the_body_and_gone_after_success() -> None:
    with run_stage("make", params()) as run:
        assert run.state.is_dir()
        (run.state / "checkpoint").write_text("x")
        Path("out.txt").write_text("")
    assert states() == []


def fail(**values: int) -> Path:
    state = None
    with pytest.raises(RuntimeError, match="stop"), run_stage("make", params(**values)) as run:  # noqa: PT012
        state = run.state
        (state / "checkpoint").write_text("x")
        raise RuntimeError("stop")
    assert state is not None
    return state


def test_a_folder_that_dvc_opened_to_everybody_is_closed() -> None:
    Path(".triplex").mkdir()
    Path(".triplex").chmod(0o777)
    make()
    assert Path(".triplex").stat().st_mode & 0o777 == 0o700


def test_state_is_kept_on_failure_and_found_again() -> None:
    state = fail()
    assert (state / "checkpoint").read_text() == "x"
    with run_stage("make", params()) as run:
        assert run.state == state
        assert (run.state / "checkpoint").read_text() == "x"
        Path("out.txt").write_text("")
    assert states() == []


def test_a_failed_run_writes_no_manifest() -> None:
    fail()
    assert not Path("reports/manifests/make.json").exists()


def test_state_belongs_to_exactly_these_inputs_and_parameters() -> None:
    seen = {fail(), fail()}
    assert len(seen) == 1
    seen |= {fail(size=4), fail(seed=8)}
    Path("in.txt").write_text("another input")
    seen.add(fail())
    Path("folder/b").write_text("b")
    seen.add(fail())
    assert len(seen) == 5


def test_missing_input_is_named_before_the_body_runs() -> None:
    Path("in.txt").unlink()
    with (
        pytest.raises(InputError, match=r"in.txt: missing\n  remedy: run the stage that writes it"),
        run_stage("make", params()),
    ):
        pytest.fail("the body ran")


def test_input_error_is_words_and_exit_code_2() -> None:
    failed = subprocess.run(script("fail"), capture_output=True, text=True, timeout=300)
    assert failed.returncode == Exit.BAD_INPUT == 2
    assert failed.stderr == "error: in.txt: is wrong\n  remedy: mend it\n"


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), errors_in_words():
        1 / 0  # noqa: B018


def test_memory_that_is_used_up_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, errors_in_words(), run_stage("make", params()):
        torch.empty(1 << 60)
    assert ended.value.code == Exit.NO_MEMORY == 71
    told = capsys.readouterr().err
    assert told.startswith("error: memory: used up: ")
    assert "4611686018427387904 bytes" in told


def test_a_full_disk_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, errors_in_words(), run_stage("make", params()):
        Path("/dev/full").write_text("x")
    assert ended.value.code == Exit.NO_SPACE == 74
    told = capsys.readouterr().err
    assert "no space left on the disk" in told
    assert " MB free" in told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, Exit.TERMINATED), (signal.SIGINT, Exit.CTRL_C)])
def test_a_stopped_stage_says_where_and_keeps_its_state(number: signal.Signals, code: Exit) -> None:
    process = subprocess.Popen(script("wait"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not Path("started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=300)[1]
    assert said == "stage make: stopped at step 40 of 240, state kept; run again to go on\n"
    assert process.returncode == code == 128 + number
    assert (states()[0] / "checkpoint").read_text() == "x"
    assert lock.read(lock.lock_path("make")) == (None, False)


def test_no_out_of_an_earlier_run_is_there_for_the_body() -> None:
    make()
    Path("models/ppo").mkdir(parents=True)
    Path("models/ppo/adapter.safetensors").touch()
    with run_stage("make", params()):
        assert not Path("out.txt").exists()
        assert not Path("reports/manifests/make.json").exists()
        Path("out.txt").write_text("")
    with run_stage("train@ppo", params()):
        assert not Path("models/ppo").exists()
        Path("models/ppo").mkdir()
        for name in ("reports/ppo.json", "reports/ppo.tsv"):
            Path(name).touch()


def test_a_bad_input_leaves_the_outs() -> None:
    make()
    Path("in.txt").unlink()
    with pytest.raises(InputError), run_stage("make", params()):
        pytest.fail("the body ran")
    assert Path("out.txt").read_text() == "output"


def test_success_removes_the_states_of_all_keys_of_the_stage_and_of_no_other() -> None:
    others = [".triplex/state/" + name for name in ("make-more-0123456789abcdef", "train-ppo-0123456789abcdef")]
    half_removed = Path(".triplex/state/.make-0123456789abcdef.abcdefgh.tmp")
    for name in (*others, half_removed):
        Path(name).mkdir(parents=True)
    fail()
    fail(size=4)
    assert len(states()) == 4
    assert not half_removed.exists()
    make(size=5)
    assert states() == [Path(name) for name in others]


def test_another_environment_has_another_state(monkeypatch: pytest.MonkeyPatch) -> None:
    first = fail()
    monkeypatch.setattr("triplex.runs.stage.environment", lambda: {"packages": {"torch": "3.0.0"}})
    assert fail() != first


def with_checkpoint(**values: int) -> Path:
    """The state folder of a run that failed after its first checkpoint."""
    with suppress(ZeroDivisionError), run_stage("make", params(**values)) as run:
        (run.state / "step-000001").mkdir(exist_ok=True)
        raise ZeroDivisionError
    return run.state


def workers(num: int) -> Params:
    found = params()
    changes = {"executor": "deepspeed", "num_workers": num}
    return found.model_copy(update={"compute": found.compute.model_copy(update=changes)})


def test_another_number_of_workers_goes_on_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    left = with_checkpoint()
    monkeypatch.setenv(GO_ON_FROM, str(left))
    with run_stage("make", workers(2)) as run:
        assert run.state != left
        assert (run.state / "step-000001").is_dir()
        Path("out.txt").write_text("x")
    assert json.loads(Path("reports/manifests/make.json").read_text())["went_on_from"] == left.name
    assert states() == []


def test_without_being_asked_it_starts_anew() -> None:
    with_checkpoint()
    with run_stage("make", workers(2)) as run:
        assert not (run.state / "step-000001").exists()
        Path("out.txt").write_text("x")
    assert "went_on_from" not in json.loads(Path("reports/manifests/make.json").read_text())


def test_nothing_but_the_workers_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GO_ON_FROM, str(with_checkpoint(size=3)))
    with (
        pytest.raises(InputError, match=r"params.size was 3, is 4: only the workers may be others"),
        run_stage("make", params(size=4)),
    ):
        pass
    monkeypatch.setenv(GO_ON_FROM, ".triplex/state/none")
    with pytest.raises(InputError, match="no state of a stage"), run_stage("make", params()):
        pass
