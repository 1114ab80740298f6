"""The graph of dvc.yaml as DVC itself reads it: which stages there are and what each needs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from triplex.runs.errors import InputError
from triplex.runs.params import PARAMS_FILE, load_yaml, nearest

DVC_FILE = Path("dvc.yaml")


@dataclass(frozen=True)
class Stage:
    """One stage: its name (`train@ppo` for an item of a matrix), the stages that it needs, the paths that it writes."""

    name: str
    needs: tuple[str, ...]
    outs: tuple[str, ...]


def read_graph() -> dict[str, Stage]:
    """The stages of ./dvc.yaml by name, each after those that it needs; InputError when DVC cannot read it."""
    for file in (DVC_FILE, PARAMS_FILE):  # names the line of a mistake, which DVC's own exception does not carry
        load_yaml(file)
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    try:
        graph = Repo(".").index.graph
    except DvcException as error:
        raise InputError(DVC_FILE, f"not readable by DVC ({error})", "`dvc status` tells more") from error
    graph = graph.subgraph([stage for stage in graph if isinstance(stage, PipelineStage)])
    place = {stage: index for index, stage in enumerate(graph)}
    ordered = networkx.lexicographical_topological_sort(graph.reverse(), key=place.__getitem__)
    return {
        stage.name: Stage(
            name=stage.name,
            needs=tuple(needed.name for needed in sorted(graph.successors(stage), key=place.__getitem__)),
            outs=tuple(out.def_path for out in stage.outs),
        )
        for stage in ordered
    }


def select(graph: dict[str, Stage], names: list[str], only: bool) -> dict[str, Stage]:
    """The named stages and, without `only`, their ancestors, in the graph's order; no name means every stage.

    `train` names every `train@...`. Each selected stage needs the selected stages that it depends on,
    directly or through stages left out. InputError for an unknown name.
    """
    if only and not names:
        raise InputError("--only", "no stage named", f"name one or more of: {', '.join(graph)}")
    wanted = {found for name in names or graph for found in _matching(graph, name)}
    if not only:
        wanted |= {ancestor for name in wanted for ancestor in _ancestors(graph, name)}
    return {
        name: Stage(name, tuple(dict.fromkeys(_needed_among(graph, name, wanted))), stage.outs)
        for name, stage in graph.items()
        if name in wanted
    }


def stage_modules() -> dict[str, str]:
    """The Python module that each entry of ./dvc.yaml runs, from `python -m stages.NAME` in its `cmd`."""
    found = {
        name: re.search(r"python -m (stages\.\w+)", str(stage["cmd"]))
        for name, stage in load_yaml(DVC_FILE).get("stages", {}).items()
    }
    return {name: match[1] for name, match in found.items() if match}


def _matching(graph: dict[str, Stage], name: str) -> list[str]:
    found = [known for known in graph if name in (known, known.split("@")[0])]
    if not found:
        families = {known.split("@")[0] for known in graph}
        remedy = nearest(name, {*graph, *families})
        if there := [known for known in graph if "@" in name and known.startswith(f"{name.partition('@')[0]}@")]:
            remedy = f'there is {" and ".join(there)}; `-S "algorithms=[...]"` of `run` names two others'
        raise InputError("stage", f"{name!r} is not in {DVC_FILE}", remedy)
    return found


def _ancestors(graph: dict[str, Stage], name: str) -> Iterator[str]:
    for needed in graph[name].needs:
        yield needed
        yield from _ancestors(graph, needed)


def _needed_among(graph: dict[str, Stage], name: str, wanted: set[str]) -> Iterator[str]:
    for needed in graph[name].needs:
        if needed in wanted:
            yield needed
        else:
            yield from _needed_among(graph, needed, wanted)
