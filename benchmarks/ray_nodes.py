"""A Ray cluster of two machines: what a link, a node or a driver that is lost does to a training, and for how long.

    python -m benchmarks.ray_nodes                                   (as root, on Linux: 15 minutes)
    python -m benchmarks.ray_nodes --only cut killed

Two network namespaces with addresses of their own, on one switch, stand for the machines; they share the disk, as all
nodes share the project's folder. `ray start` makes them nodes of one CPU, with a token, so each of two workers of the
stage `base` has one to itself: the tiny preset's model, of which it makes 570 steps and a checkpoint every 20.

- cut: the link of the second node is cut for 30 s, and healed
- killed: all processes of the second node are killed; 5 s later another one joins in its place
- lost: the link is cut for good; then one worker goes on under TRIPLEX_GO_ON_FROM
- ended: SIGINT, SIGTERM and SIGKILL of the stage, each time started again
- submitted: the stage by `ray job submit`, ended by `ray job stop`, submitted again

Recovery is the time from the fault to the next checkpoint. Prints Markdown.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.fault_kills import compare, copy_project
from benchmarks.pipeline import environment
from pipelines.overrides import apply
from triplex.runs.continuation import GO_ON_FROM
from triplex.runs.errors import Exit

SWITCH, PREFIX = f"triplex-{os.getpid()}-switch", f"triplex-{os.getpid()}-node"
ADDRESSES = {1: "10.77.0.1", 2: "10.77.0.2"}
HEAD, JOBS = f"{ADDRESSES[1]}:6379", f"http://{ADDRESSES[1]}:8265"
PARAMS = {
    "compute.executor": "ray", "compute.num_workers": 2, "compute.deepspeed.zero_stage": 0, "compute.max_failures": 1,
    "base.optim.num_epochs": 15,
}  # fmt: skip
CUT_SECONDS, REPLACED_SECONDS, FAULT_AT = 30.0, 5.0, 100
PATIENCE_SECONDS = 1800.0
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def ip(words: str) -> None:
    """Run `ip` with these words."""
    subprocess.run(["ip", *words.split()], check=True)


@contextmanager
def network() -> Iterator[None]:
    """The namespaces and the switch, without a word to any other network; all that runs in them ends with them."""
    names = [SWITCH, *(f"{PREFIX}{number}" for number in ADDRESSES)]
    for name in names:
        ip(f"netns add {name}")
    try:
        ip(f"-n {SWITCH} link add switch type bridge")
        ip(f"-n {SWITCH} link set switch up")
        for number, address in ADDRESSES.items():
            name = f"{PREFIX}{number}"
            ip(f"link add port{number} netns {SWITCH} type veth peer name eth0 netns {name}")
            ip(f"-n {SWITCH} link set port{number} master switch up")
            ip(f"-n {name} addr add {address}/24 dev eth0")
            for device in ("lo", "eth0"):
                ip(f"-n {name} link set {device} up")
            ip(f"-n {name} route add default dev eth0")
        yield
    finally:
        for name in names:
            kill_all(name)
            ip(f"netns del {name}")


def pids(namespace: str) -> list[int]:
    """The processes in a namespace."""
    found = subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True)
    return list(map(int, found.stdout.split()))


def kill_all(namespace: str) -> None:
    """SIGKILL for all that runs there, and for what it starts meanwhile."""
    while there := pids(namespace):
        for pid in there:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        time.sleep(0.1)


class Cluster:
    """Nodes in the network, and stages that are started on the first of them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.num_logs = scratch, 0
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {
            "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def command(
        self, number: int, words: list[str], folder: Path, **variables: str
    ) -> tuple["subprocess.Popen[bytes]", Path]:
        """A command on a node, and the file that takes what it prints."""
        self.num_logs += 1
        log = self.scratch / f"log-{self.num_logs}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", f"{PREFIX}{number}", *words], cwd=folder, stdin=subprocess.DEVNULL,
                env=self.environment | variables, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        return process, log

    def start_node(self, number: int) -> None:
        """`ray start`, again whenever it ends, as a machine's supervisor would; the first is the head."""
        role = ["--head", "--port=6379", f"--dashboard-host={ADDRESSES[1]}", f"--temp-dir={self.scratch}/ray"]
        role = role if number == 1 else [f"--address={HEAD}"]
        one = ["--block", "--num-cpus=1", f"--node-ip-address={ADDRESSES[number]}", "--object-store-memory=200000000"]
        again = f"while :; do {shlex.join([*RAY, 'start', *role, *one])}; sleep 1; done"
        process, log = self.command(number, ["sh", "-c", again], self.scratch)
        wait_for(lambda: "Ray runtime started" in log.read_text(), process, log)

    @contextmanager
    def up(self) -> Iterator[None]:
        """Both nodes, and nothing of them afterwards."""
        self.link(whole=True)
        for number in ADDRESSES:
            self.start_node(number)
        yield
        for number in ADDRESSES:
            kill_all(f"{PREFIX}{number}")
        shutil.rmtree(self.scratch / "ray")

    def link(self, *, whole: bool) -> None:
        """Plug the second node's cable into the switch, or pull it: what is sent is then lost without a word."""
        ip(f"-n {SWITCH} link set port2 {'master switch' if whole else 'nomaster'}")


class Training:
    """The stage `base` in a copy of the project, by its own driver on the first node."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        shutil.copytree(cluster.scratch / "project", folder)

    def start(self, **variables: str) -> None:
        """From its last checkpoint, if there is one."""
        words = [sys.executable, "-m", "stages.base"]
        variables |= {"RAY_ADDRESS": HEAD, "PYTHONPATH": str(self.folder)}
        self.process, self.log = self.cluster.command(1, words, self.folder, **variables)

    def steps(self) -> int:
        """Those of the newest checkpoint."""
        names = (path.name for path in self.folder.glob(".triplex/state/base-*/step-*"))
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def reach(self, steps: int) -> None:
        """Wait for the next checkpoint from there on."""
        wait_for(lambda: self.steps() >= steps, self.process, self.log)

    def recover(self, fault: Callable[[], None]) -> float:
        """Seconds from the fault to a checkpoint of steps that were made after it."""
        self.reach(self.steps() + FAULT_AT)
        begin = time.monotonic()
        fault()
        self.reach(self.steps() + 1)
        return time.monotonic() - begin

    def end(self) -> str:
        """`exit CODE`, and the error where there is one."""
        code = self.process.wait(PATIENCE_SECONDS)
        errors = re.findall(r"^error: .*", self.log.read_text(), re.MULTILINE)
        return " ".join([f"exit {code}", *errors])

    def same_bytes(self) -> str:
        """Whether the model is that of the undisturbed run."""
        path = "models/base"
        return "no" if compare(self.folder / path, self.cluster.scratch / "undisturbed" / path) else "yes"


def wait_for(done: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until `done()`; an error with the log where the process ends before, or takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert process.poll() is None, log.read_text()[-5000:]
        assert time.monotonic() < deadline, log.read_text()[-5000:]
        time.sleep(0.1)


def row(*cells: Any) -> None:
    """A line of the table."""
    texts = [f"{cell:.0f}" if isinstance(cell, float) else str(cell) for cell in cells]
    print(f"| {' | '.join(texts)} |", flush=True)


def undisturbed(cluster: Cluster) -> None:
    """What all others are held against."""
    with cluster.up():
        begin = time.monotonic()
        training = Training(cluster, cluster.scratch / "undisturbed")
        training.start()
        row("nothing", training.end(), "", time.monotonic() - begin, "")


def cut(cluster: Cluster) -> None:
    """The link is gone for a while."""

    def fault() -> None:
        cluster.link(whole=False)
        time.sleep(CUT_SECONDS)
        cluster.link(whole=True)

    recovered(cluster, f"the link cut for {CUT_SECONDS:g} s", fault)


def killed(cluster: Cluster) -> None:
    """A node dies, and another one comes."""

    def fault() -> None:
        kill_all(f"{PREFIX}2")
        time.sleep(REPLACED_SECONDS)
        cluster.start_node(2)

    recovered(cluster, "a node killed, replaced", fault)


def recovered(cluster: Cluster, name: str, fault: Callable[[], None]) -> None:
    """A fault that the training gets over by itself."""
    with cluster.up():
        begin = time.monotonic()
        training = Training(cluster, cluster.scratch / fault.__qualname__.partition(".")[0])
        training.start()
        seconds = training.recover(fault)
        row(name, training.end(), seconds, time.monotonic() - begin, training.same_bytes())


def lost(cluster: Cluster) -> None:
    """A node goes for good; one worker goes on."""
    with cluster.up():
        begin = time.monotonic()
        training = Training(cluster, cluster.scratch / "lost")
        training.start()
        training.reach(FAULT_AT)
        fault = time.monotonic()
        cluster.link(whole=False)
        row("the link cut for good", training.end(), time.monotonic() - fault, time.monotonic() - begin, "")
        begin = time.monotonic()
        apply({"compute.num_workers": 1}, training.folder / "params.yaml")
        (state,) = training.folder.glob(".triplex/state/base-*")
        training.start(**{GO_ON_FROM: str(state.relative_to(training.folder))})
        training.reach(training.steps() + 1)
        seconds = time.monotonic() - begin
        row("... one worker goes on", training.end(), seconds, time.monotonic() - begin, training.same_bytes())


def ended(cluster: Cluster) -> None:
    """The driver is asked to end, told to, killed; its workers follow."""
    with cluster.up():
        training = Training(cluster, cluster.scratch / "ended")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            training.start()
            training.reach(training.steps() + FAULT_AT)
            stage, *_ = psutil.Process(training.process.pid).children()  # the guard's, which is what was started
            begin = time.monotonic()
            os.kill(stage.pid if number == signal.SIGKILL else training.process.pid, number)
            how = training.end()
            wait_for_workers_gone()
            row(f"{number.name} of the stage", how, time.monotonic() - begin, "", "")
        begin = time.monotonic()
        training.start()
        row("... started again", training.end(), "", time.monotonic() - begin, training.same_bytes())


def submitted(cluster: Cluster) -> None:
    """The stage as a job of Ray's."""
    with cluster.up():
        training = Training(cluster, cluster.scratch / "submitted")
        stage = ["sh", "-c", f"cd {training.folder} && exec {sys.executable} -m stages.base"]
        submit = [*RAY, "job", "submit", "--address", JOBS, "--submission-id"]
        wrong, log = cluster.command(1, [*submit, "wrong", "--", *stage], cluster.scratch, RAY_AUTH_TOKEN="0" * 64)
        code = wrong.wait(PATIENCE_SECONDS)
        assert "Unauthenticated" in log.read_text() or "token" in log.read_text(), log.read_text()
        row("ray job submit, another token", f"exit {code}", "", "", "")
        training.process, training.log = cluster.command(1, [*submit, "first", "--", *stage], cluster.scratch)
        training.reach(FAULT_AT)
        begin = time.monotonic()
        cluster.command(1, [*RAY, "job", "stop", "--address", JOBS, "first"], cluster.scratch)
        how = training.end()
        wait_for_workers_gone()
        row("ray job stop", how, time.monotonic() - begin, "", "")
        begin = time.monotonic()
        training.process, training.log = cluster.command(1, [*submit, "second", "--", *stage], cluster.scratch)
        row("... submitted again", training.end(), "", time.monotonic() - begin, training.same_bytes())


def wait_for_workers_gone() -> None:
    """Until no worker of a training is left on any node."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any("RayTrainWorker" in name_of(pid) for number in ADDRESSES for pid in pids(f"{PREFIX}{number}")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def name_of(pid: int) -> str:
    """What the process calls itself."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(psutil.Process(pid).cmdline())
    return ""


def main() -> None:
    """Print the table."""
    faults: dict[str, Callable[[Cluster], None]] = {
        "cut": cut, "killed": killed, "lost": lost, "ended": ended, "submitted": submitted
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=faults, default=list(faults))
    names = parser.parse_args().only
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.TERMINATED))  # so that it leaves nothing running either
    print(environment())
    print("| fault | end | recovery, s | whole, s | same bytes |\n|---|---|---|---|---|")
    with TemporaryDirectory(prefix="nodes-") as folder, network():
        cluster = Cluster(Path(folder))
        copy_project(cluster.scratch / "project", PARAMS)
        prepare, log = cluster.command(
            1, [sys.executable, "-m", "stages.prepare"], cluster.scratch / "project",
            PYTHONPATH=str(cluster.scratch / "project"),
        )  # fmt: skip
        assert prepare.wait(PATIENCE_SECONDS) == 0, log.read_text()
        for fault in [undisturbed, *(faults[name] for name in names)]:
            fault(cluster)


if __name__ == "__main__":
    main()
