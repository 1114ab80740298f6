"""SIGKILL at random times, then the same command again: does a run end with the bytes of one that was left alone?

    python -m benchmarks.fault_kills --kills 20
    python -m benchmarks.fault_kills --kills 2 --targets sft train@ppo --reference FOLDER
    python -m benchmarks.fault_kills --kills 20 --targets train@ppo --executor ray

Copies the project, runs the tiny preset once undisturbed (or takes FOLDER, where that was done), and for each target
starts from where all before it has run. A target is a stage, of which one of the processes is killed, `dvc` or `flow`
(`python -m pipelines run`), which are killed alone while the whole pipeline runs. Each start is killed at a time drawn
uniformly from the target's running time; after a kill the next start is killed again or left alone, by a coin. With
--executor two workers share the tiny preset's trainings at ZeRO 2, and a worker, Ray's daemon or torchrun may be the
one that is killed. Prints Markdown.
"""

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipelines.overrides import apply
from triplex.runs.errors import Exit
from triplex.runs.manifest import declarations

STAGES = ("prepare", "base", "sft", "baseline", "reward", "train@ppo", "train@grpo", "evaluate", "plot")
DVC, FLOW = "dvc", "flow"
PATIENCE_SECONDS = 1200.0
_LINGER_SECONDS = 10.0
_LOCK = "dvc.lock"
_WORKERS = ("torch.distributed.run", "triplex.distributed.worker", "ray::RayTrainWorker", "ray::MapWorker", "raylet")


@dataclass
class Outcome:
    """What came of the kills of one target."""

    kills: int = 0
    differing_bytes: int = 0
    manual_steps: int = 0
    left_running: int = 0
    seconds_lost: list[float] = field(default_factory=list)


def main() -> None:
    """Kill, run again, compare, print the table; exit code 1 if anything but time was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, required=True, help="of each target")
    parser.add_argument("--targets", nargs="+", choices=[*STAGES, DVC, FLOW], default=[*STAGES, DVC, FLOW])
    parser.add_argument("--reference", type=Path, help="a copy of the project in which the tiny preset has run")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--executor", choices=["local", "ray", "deepspeed"], default="local")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.TERMINATED))  # so that it leaves nothing running either
    with tempfile.TemporaryDirectory(prefix="triplex-kills-") as folder:
        reference = options.reference or make_reference(Path(folder) / "reference", options.executor)
        outcomes = {}
        for target in options.targets:
            draw = random.Random(f"{options.seed} {target}")
            outcomes[target] = Kills(target, reference.resolve(), Path(folder), draw).run(options.kills)
            print(target, outcomes[target], file=sys.stderr, flush=True)
    print(table(outcomes))
    if any(o.differing_bytes or o.manual_steps or o.left_running for o in outcomes.values()):
        sys.exit(Exit.FAILED)


def make_reference(folder: Path, executor: str = "local") -> Path:
    """The project with the tiny preset, committed, after `dvc repro`."""
    shared = {"executor": executor, "num_workers": 2, "deepspeed.zero_stage": 2}
    copy_project(folder, {f"compute.{name}": value for name, value in shared.items()} if executor != "local" else {})
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    for command in (["git", "init", "-q"], ["git", "add", "."], ["git", *who, "commit", "-qm", "tiny"]):
        subprocess.run(command, cwd=folder, check=True)
    code = start(folder, ["dvc", "repro"]).wait(PATIENCE_SECONDS)
    assert code == 0, log(folder)
    return folder


def copy_project(folder: Path, values: dict[str, Any]) -> None:
    """The project as git would clone it, with the tiny preset and these values of its keys."""
    listing = ["git", "ls-files", "-coz", "--exclude-standard"]
    names = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if Path(name).is_file() and name != _LOCK:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)
    shutil.copy("presets/tiny.yaml", folder / "params.yaml")
    apply(values, folder / "params.yaml")


class Kills:
    """The kills of one target, all from copies of the same reference."""

    def __init__(self, target: str, reference: Path, scratch: Path, draw: random.Random) -> None:
        self.target, self.reference, self.draw = target, reference, draw
        self.folder = scratch / "run"
        whole = {DVC: ["dvc", "repro"], FLOW: ["pipelines", "run"]}
        self.command = whole.get(target, ["dvc", "repro", "--single-item", target])
        self.expected = lock_until((reference / _LOCK).read_text(), target if target in STAGES else None)
        self.outcome = Outcome()

    def run(self, kills: int) -> Outcome:
        """Trials until there were that many kills."""
        try:
            self._begin()
            undisturbed, seconds = self._undisturbed()
            while self.outcome.kills < kills:
                self._begin()
                self._trial(kills, undisturbed, seconds)
        finally:
            left_running(self.folder, 0)
        shutil.rmtree(self.folder)
        return self.outcome

    def _begin(self) -> None:
        """A fresh copy of the reference in which the target, and all that comes after it, has not run."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        shutil.copytree(self.reference, self.folder, symlinks=True)
        done = lock_until(self.expected, self.target, including=False) if self.target in STAGES else ""
        (self.folder / _LOCK).write_text(done)
        shutil.rmtree(self.folder / ".dvc/cache/runs")  # DVC would take a stage's outs from there
        if not done:
            remove(self.folder / _LOCK)
            shutil.rmtree(self.folder / ".dvc/cache")
        for stage, declared in declarations(self.reference / "dvc.yaml").items():
            for out in declared["outs"] if f"\n  {stage}:\n" not in done else []:
                remove(self.folder / out)

    def _undisturbed(self) -> tuple[float, float]:
        """Seconds of the command, and of the part of it in which kills are drawn."""
        begin = time.monotonic()
        process = start(self.folder, self.command)
        if self.target in STAGES:
            victims = self._wait_for_victims(process)
            seen = time.monotonic()
            psutil.wait_procs(victims, PATIENCE_SECONDS)
            seconds = time.monotonic() - seen
        assert process.wait(PATIENCE_SECONDS) == 0, log(self.folder)
        whole = time.monotonic() - begin
        assert self._differing() == 0, f"{self.target}: two undisturbed runs differ"
        return whole, seconds if self.target in STAGES else whole

    def _trial(self, kills: int, undisturbed: float, seconds: float) -> None:
        """One kill or more, and the starts that it takes to get to the end."""
        begin, before, again = time.monotonic(), self.outcome.kills, True
        while True:
            process = start(self.folder, self.command)
            killed = again and self.outcome.kills < kills and self._kill(process, self.draw.uniform(0, seconds))
            self.outcome.kills += killed
            code = process.wait(PATIENCE_SECONDS)
            if not killed:
                break
            again = self.draw.random() < 0.5
        lost = time.monotonic() - begin - undisturbed
        if self.outcome.kills > before:
            self.outcome.seconds_lost.append(lost / (self.outcome.kills - before))
        if code:
            self.outcome.manual_steps += 1
            print(f"{self.target}: exit code {code}\n{log(self.folder)}", file=sys.stderr, flush=True)
        else:
            self.outcome.differing_bytes += self._differing()
        self.outcome.left_running += left_running(self.folder)

    def _kill(self, process: "subprocess.Popen[bytes]", delay: float) -> bool:
        """Kill after `delay` seconds of the target's running; False if it was done before."""
        if self.target not in STAGES:
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay)
                return False
            process.kill()
            return True
        self._wait_for_victims(process)
        time.sleep(delay)
        with suppress(IndexError, psutil.NoSuchProcess):  # it was done before
            self.draw.choice(self._victims(process)).kill()
            return True
        return False

    def _wait_for_victims(self, process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := self._victims(process)) and process.poll() is None:
            assert time.monotonic() < deadline, log(self.folder)
            time.sleep(0.01)
        return found

    def _victims(self, process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
        """The processes of the stage and the workers that it shares its training with, without what else it starts."""
        module, found = f"stages.{self.target.partition('@')[0]}", []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    words = child.cmdline()
                    if words[1:3] == ["-m", module] or any(name in word for word in words for name in _WORKERS):
                        found.append(child)
        return found

    def _differing(self) -> int:
        """Bytes of dvc.lock and of the outs that are not the reference's."""
        found = (self.folder / _LOCK).read_text()
        if self.target == FLOW:  # which runs stages side by side, and DVC writes them down as they end
            found, expected = "".join(sorted(blocks(found))), "".join(sorted(blocks(self.expected)))
        else:
            expected = self.expected
        outs = [
            Path(out)
            for stage, declared in declarations(self.reference / "dvc.yaml").items()
            for out in declared["outs"]
            if f"\n  {stage}:\n" in self.expected
        ]
        return differing(found.encode(), expected.encode()) + sum(
            compare(self.folder / out, self.reference / out) for out in outs
        )


def blocks(lock: str) -> list[str]:
    """The text of dvc.lock as its head and one piece a stage."""
    return re.split(r"(?m)^(?=  \S)", lock)


def lock_until(lock: str, stage: str | None, *, including: bool = True) -> str:
    """dvc.lock as it was when `stage` had just run, or was about to; the whole of it without a stage."""
    pieces = blocks(lock)
    starts = [piece.partition(":")[0].strip() for piece in pieces]
    end = len(pieces) if stage is None else starts.index(stage) + including
    return "".join(pieces[:end]) if end > 1 else ""


def start(folder: Path, module: list[str]) -> "subprocess.Popen[bytes]":
    """`python -m MODULE` in the copy, in a session of its own; what it prints goes to a file there."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / ".triplex-output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *module], cwd=folder, env=os.environ | {"PATH": path, "PYTHONPATH": str(folder)},
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def log(folder: Path) -> str:
    """The end of what was printed there."""
    return (folder / ".triplex-output").read_text()[-3000:]


def left_running(folder: Path, linger_seconds: float = _LINGER_SECONDS) -> int:
    """How many processes work in the folder though nobody waits for them; they are ended."""

    def there() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    deadline = time.monotonic() + linger_seconds
    while (found := there()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in found:
        os.kill(process.pid, signal.SIGKILL)
    return len(found)


def compare(path: Path, reference: Path) -> int:
    """Differing bytes of two files or folders; a file that only one has differs in all its bytes."""
    one, other = contents(path), contents(reference)
    return sum(differing(one.get(name, b""), other.get(name, b"")) for name in one.keys() | other.keys())


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of a file, or of all below a folder by their path there."""
    found = root.rglob("*") if root.is_dir() else [root]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found if path.is_file()}


def differing(one: bytes, other: bytes) -> int:
    """How many places differ, those that only the longer has included."""
    if one == other:
        return 0
    return sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def table(outcomes: dict[str, Outcome]) -> str:
    """Markdown, one line a target."""
    lines = ["| killed | kills | differing bytes | manual steps | left running | median seconds lost |"]
    lines.append("|---|---|---|---|---|---|")
    for target, o in outcomes.items():
        lost = f"{statistics.median(o.seconds_lost):.1f}" if o.seconds_lost else "-"
        numbers = f"{o.kills} | {o.differing_bytes} | {o.manual_steps} | {o.left_running} | {lost}"
        lines.append(f"| {target} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
