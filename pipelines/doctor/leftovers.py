"""What killed processes leave: locks that nobody holds, temporary files, states that nothing will resume."""

import fcntl
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipelines.doctor.finding import Finding
from pipelines.doctor.locked import cache_folder
from pipelines.dvc_lock import RWLOCK, claims, is_dvc
from pipelines.resume import state_of
from triplex.runs import lock
from triplex.runs.errors import InputError
from triplex.runs.files import remove_folder, strays
from triplex.runs.manifest import declarations
from triplex.runs.states import STATES, states

_WRITTEN_TO = ("data", "models", "reports", ".triplex")
_DVC_TEMPORARY = re.compile(r".*\.[\w-]{16,}\.tmp")


def running() -> list[str]:
    """Who works in this project at the moment: stages, flows and commands of DVC."""
    found = [f"stage {path.stem}" for path in _stage_locks() if lock.read(path)[1]]
    if flow_runs_now():
        found.append("a flow")
    living = {pid for _, pid in claims() or [] if is_dvc(pid)}
    return found + [f"dvc (process {pid})" for pid in sorted(living)]


def flow_runs_now() -> bool:
    """Whether some process holds the lock of the flow."""
    path = lock.LOCKS / "flow.lock"
    if not path.is_file():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def stale_rwlock() -> Iterator[Finding]:
    """DVC's list of who reads and writes what: torn, or with processes that are gone."""
    found = claims()
    if found is None:
        yield Finding(
            "broken lock of DVC", str(RWLOCK), "not readable as JSON; `dvc repro` fails",
            "`python -m pipelines doctor --repair` removes it", partial(_remove, RWLOCK),
        )  # fmt: skip
    elif gone := sorted({pid for _, pid in found if not is_dvc(pid)}):
        processes = ", ".join(map(str, gone))
        yield Finding(
            "stale lock of DVC", str(RWLOCK), f"of processes that are gone ({processes}); their numbers come again",
            "`python -m pipelines doctor --repair` removes it", partial(_remove, RWLOCK),
        )  # fmt: skip


def dead_stages() -> Iterator[Finding]:
    """Stages that their heartbeat shows as running, and that are gone."""
    for path in _stage_locks():
        heartbeat, lives = lock.read(path)
        if heartbeat and not lives:
            how_far = heartbeat.progress() or "before its first step"
            yield Finding(
                "killed stage", str(path), f"process {heartbeat.pid}, last heard of at {heartbeat.time}, {how_far}",
                "`dvc repro` goes on from its last checkpoint", partial(_empty, path), warning=True,
            )  # fmt: skip


def temporary_files() -> Iterator[Finding]:
    """Half-written files and folders of writers that are gone."""
    roots = [Path(root) for root in _WRITTEN_TO if Path(root).is_dir()]
    folders = [Path("."), *roots, *(path for root in roots for path in root.rglob("*") if path.is_dir())]
    found = [path for folder in folders if not _in_temporary(folder) for path in strays(folder)]
    if not running():
        found += [path for path in cache_folder().rglob("*.tmp") if _DVC_TEMPORARY.fullmatch(path.name)]
    for path in found:
        size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
        yield Finding(
            "temporary file", str(path), f"{size / 1e6:.2f} MB of a writer that was killed",
            "`python -m pipelines doctor --repair` removes it", partial(_remove, path), warning=True,
        )  # fmt: skip


def abandoned_states() -> Iterator[Finding]:
    """Checkpoints that no stage will go on from, as it is no more in dvc.yaml or has other inputs now."""
    kept = {state for name in declarations() for state in _resumable(name)}
    for state in sorted(STATES.glob("[!.]*")):
        if state not in kept:
            size = sum(file.stat().st_size for file in state.rglob("*") if file.is_file())
            yield Finding(
                "abandoned checkpoints", str(state), f"{size / 1e6:.2f} MB of other parameters, inputs or code",
                f"rm -r {state}, unless you go back to those", warning=True,
            )  # fmt: skip


def _resumable(name: str) -> list[Path]:
    """The states of a stage that it may go on from: the one of its inputs, or all where these are not known yet."""
    there = states(name)
    if not there:
        return []
    try:
        return [state_of(name)]
    except InputError:
        return there


def _stage_locks() -> list[Path]:
    return [path for path in sorted(lock.LOCKS.glob("*.lock")) if path.name != "flow.lock"]


def _in_temporary(folder: Path) -> bool:
    return any(part.startswith(".") and part.endswith(".tmp") for part in folder.parts)


def _empty(path: Path) -> str:
    path.write_text("")
    return "heartbeat erased"


def _remove(path: Path) -> str:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink()
    return "removed"
