"""The Prefect flow: the graph of dvc.yaml, each task one stage, each stage run by DVC."""

import logging
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect import allow_failure, flow, get_run_logger, runtime, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from pipelines import artifacts
from pipelines.graph import Stage
from pipelines.guard import Guarded
from pipelines.output import is_hint, lines, outcome
from pipelines.request import one_flow_at_a_time, prepare
from pipelines.watch import Watch
from triplex.runs import history
from triplex.runs.errors import InputError
from triplex.runs.progress import read_standing

PARALLEL_STAGES = "TRIPLEX_PARALLEL_STAGES"
_THREADS: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=64)  # a task that waits occupies a thread
_WORDS = {"Ran": "ran in {}", "Restored": "restored from DVC's cache in {}, {}", "Skipped": "up to date, {1}"}
_COUNTED = {
    "Ran": "ran",
    "Restored": "restored",
    "Skipped": "up to date",
    "NotRun": "not run",
    "Stopped": "stopped",
    "Failed": "failed",
}


def _tells_more(record: logging.LogRecord) -> bool:
    """Not how a task has completed, which `run_stage` tells; nor a failed state as the traceback of no exception."""
    completed = record.levelno == logging.INFO and record.getMessage().startswith("Finished in state")
    return not completed and record.exc_info != (None, None, None)


logging.getLogger("prefect.task_runs").addFilter(_tells_more)


def _run_name() -> str:
    """`train@ppo only ppo.learning_rate=1e-05`: what the run was asked for."""
    asked = runtime.flow_run.parameters
    words = [", ".join(asked["stages"]) or "all stages", *(word for word in ("only", "force") if asked[word])]
    return " ".join(words + [f"{key}={value}" for key, value in asked["params"].items()])


@flow(name="triplex", flow_run_name=_run_name, task_runner=_THREADS)  # type: ignore[arg-type]
def triplex(
    stages: list[str] = [],  # noqa: B006  (the form on Prefect's page starts from the default; it is not changed)
    only: bool = False,
    force: bool = False,
    params: dict[str, Any] = {},  # noqa: B006
) -> State:
    """Run stages of dvc.yaml, each after those that it needs, at most TRIPLEX_PARALLEL_STAGES (2) at a time.

    Args:
        stages: Names from dvc.yaml, with their ancestors; `train` names both train@ppo and train@grpo; none means all.
        only: Run exactly the named stages, without their ancestors.
        force: Run stages even if they are up to date.
        params: Written into params.yaml first, for example {"ppo.learning_rate": 1e-5}.
    """
    try:
        return _execute(stages, only, force, params)
    except InputError as error:  # of the page's form: told without a traceback
        return Failed(message=str(error))


def _execute(stages: list[str], only: bool, force: bool, params: dict[str, Any]) -> State:
    with one_flow_at_a_time(), Watch() as watch:
        execution = Execution(prepare(stages, only, params), force, watch)
        try:
            futures: dict[str, PrefectFuture[Any]] = {}
            for stage in execution.plan.values():
                needs: list[Any] = [allow_failure(futures[name]) for name in stage.needs]
                named = run_stage.with_options(name=stage.name, task_run_name=stage.name)
                futures[stage.name] = named.submit(stage.name, execution, wait_for=needs, return_state=False)
            wait(list(futures.values()))
        except KeyboardInterrupt:
            execution.stop()
            wait(list(futures.values()))  # the stages save what they can go on from
            return execution.cancelled()
        finally:
            execution.stop()
    return execution.summary()


@task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(name: str, execution: "Execution") -> State:
    """Run one stage; the state's name is Ran, Restored, Skipped, Failed, NotRun or Stopped."""
    state = execution.run(execution.plan[name])
    if state.is_completed():
        get_run_logger().info(state.message)
    if (word := _COUNTED[str(state.name)]) not in ("ran", "failed"):
        context = TaskRunContext.get()
        assert context is not None
        context.task_run.name = f"{name} ({word})"  # the graph on Prefect's page shows no names of states
    return state


class Execution:
    """One run of the flow: what is to run, what came of it, and how to stop it."""

    def __init__(self, plan: dict[str, Stage], force: bool, watch: Watch) -> None:
        self.plan, self.force, self.watch = plan, force, watch
        self._states: dict[str, State] = {}
        self._slots = threading.Semaphore(int(os.environ.get(PARALLEL_STAGES, "2")))
        self._running: set[Guarded] = set()
        self._stopped = False
        self._reporting = threading.Lock()
        self._progress = cast(UUID, create_progress_artifact(0.0, key="triplex-progress", description=self._counts()))

    def run(self, stage: Stage) -> State:
        """Run the stage unless one that it needs has not completed; tell Prefect and keep what came of it."""
        missing = [name for name in stage.needs if not self._states[name].is_completed()]
        state: State
        with self._slots:
            if missing:
                state = Failed(name="NotRun", message=f"needs {', '.join(missing)}")
            elif self._stopped:
                state = Failed(name="NotRun", message="the flow was ended")
            else:
                state = self._repro(stage.name)
        if state.is_completed():
            artifacts.publish(stage.outs)
        with self._reporting:
            self._states[stage.name] = state
            done = 100 * len(self._states) / len(self.plan)
            update_progress_artifact(self._progress, done, description=self._counts())
        return state

    def stop(self) -> None:
        """End the stages that run and start no other."""
        self._stopped = True
        for guarded in list(self._running):
            guarded.end()

    def summary(self) -> State:
        """The state of the whole: failed if a stage failed, with what came of each."""
        failed = [name for name, state in self._states.items() if state.name == "Failed"]
        if not failed:
            return Completed(message=self._counts())
        missing = [name for name, state in self._states.items() if state.name == "NotRun"]
        rest = f"; not run: {', '.join(missing)}" if missing else ""
        return Failed(message=f"{', '.join(failed)} failed{rest}")

    def cancelled(self) -> State:
        """The state of the whole after Ctrl-C, with the stages that it stopped."""
        stopped = [name for name, state in self._states.items() if state.name == "Stopped"]
        what = f"{', '.join(stopped)} stopped; " if stopped else ""
        return Cancelled(message=f"{what}{self._counts()}")

    def _repro(self, name: str) -> State:
        start, result, last = time.monotonic(), None, ""
        command = ["dvc", "--wait-for-lock", "repro", "--single-item", name]
        command += ["--force"] * self.force
        with self.watch.stage(name) as watched, Guarded(command, _stage_environment()) as guarded:
            self._running.add(guarded)
            if self._stopped:  # said between the look above and the line before
                guarded.end()
            for line in lines(guarded.output()):
                told = outcome(line, name)
                if told == "Ran":
                    watched.begin()
                result = result or told
                of_dvc = line.startswith("ERROR: failed to reproduce")
                if is_hint(line) or (of_dvc and self._stopped):
                    continue
                get_run_logger().info(line)
                if standing := read_standing(line):
                    watched.show(standing)
                if last.startswith("error: ") and line.startswith("  "):
                    last = f"{last}; {line.strip()}"  # the remedy of a mistake
                elif not of_dvc:
                    last = line
            code = guarded.exit_code()
        self._running.discard(guarded)
        seconds = f"{time.monotonic() - start:.1f} s"
        if self._stopped and code:
            return Failed(name="Stopped", message=f"after {seconds}, the flow was ended")
        if code:
            return Failed(message=f"exit code {code} after {seconds}: {last}")
        assert result, f"dvc repro did not say what became of {name}"
        return Completed(name=result, message=_WORDS[result].format(seconds, _since(name)))

    def _counts(self) -> str:
        counts = Counter(str(state.name) for state in self._states.values())
        parts = [f"{count} {_COUNTED[name]}" for name, count in counts.items()]
        return f"{len(self._states)} of {len(self.plan)} stages" + (f": {', '.join(parts)}" if parts else "")


def _since(name: str) -> str:
    """Which run's bytes stand there, as far as that is known here."""
    made = history.find(name)
    return f"as run on {made.ended} in {made.seconds:,.0f} s" if made else "same inputs"


def _stage_environment() -> dict[str, str]:
    """`python` in a stage's command is the interpreter of the flow, and what it prints arrives at once."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {"PATH": path, "PYTHONUNBUFFERED": "1"}
