"""Flows that Prefect's pages show as running though nothing runs."""

import asyncio
import sqlite3
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID

from pipelines import environment
from pipelines.doctor.finding import Finding
from pipelines.doctor.leftovers import flow_runs_now

DATABASE = environment.PREFECT_HOME / "prefect.db"
_FLOWS = """SELECT id, name, state_type FROM flow_run
    WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING') ORDER BY name"""
_TASKS = """SELECT id, name, state_type FROM task_run
    WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING') AND flow_run_id = ? ORDER BY name"""


def dead_flow_runs() -> Iterator[Finding]:
    """Runs in an unfinished state while no process holds the flow's lock, as `kill -9` of a flow leaves them."""
    if not DATABASE.is_file() or flow_runs_now():
        return
    for run, name, state in _rows(_FLOWS):
        yield Finding(
            "dead flow run", f"{DATABASE}: {name}", f"shown as {state.lower()}, and no flow runs in this project",
            "`python -m pipelines doctor --repair` marks it as crashed", partial(_crash, run),
        )  # fmt: skip


def _rows(query: str, *values: str) -> list[tuple[str, str, str]]:
    """The rows of a query over Prefect's database."""
    connection = sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def _crash(flow_run: str) -> str:
    """Set a flow run, and its tasks that have not ended, to Crashed, as Prefect's server does."""
    environment.prepare()
    tasks = [run for run, _, _ in _rows(_TASKS, flow_run)]
    asyncio.run(_set_crashed(flow_run, tasks))
    return f"marked as crashed, with {len(tasks)} of its stages"


async def _set_crashed(flow_run: str, tasks: list[str]) -> None:
    from prefect.server import models
    from prefect.server.database import provide_database_interface
    from prefect.server.schemas.states import State, StateType

    def crashed() -> Any:
        return State(type=StateType.CRASHED, name="Crashed", message="its process was gone when the doctor looked")

    database = provide_database_interface()
    async with database.session_context(begin_transaction=True) as session:
        for task in tasks:
            await models.task_runs.set_task_run_state(session, UUID(task), crashed(), force=True)
        await models.flow_runs.set_flow_run_state(session, UUID(flow_run), crashed(), force=True)
