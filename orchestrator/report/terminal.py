"""Plans, tables of entries, data sets and links, as people see them in a terminal."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from orchestrator.config.describing import Entry
from orchestrator.config.plan import PlannedLane, to_train
from orchestrator.config.run import RunConfig
from orchestrator.report.text import Links, settings_text, wide
from workers.contract import InputError, Json, Memory


def print_links(
    links: Links, run_dir: Path | str, shown: tuple[str, ...] = ("tree", "lanes", "methods")
) -> None:
    """How to look at the run (or sweep) in the MLflow UI, and again here."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"folder: {run_dir}", markup=False)
    if links.command is not None:
        console.print("to browse it, start the MLflow UI with:", markup=False)
        console.print(f"  {links.command}", markup=False)
    for name in shown:
        console.print(f"  {name}: {asdict(links)[name]}", markup=False)


def free_port(first: int, most: int = 100) -> int:
    """The first port from ``first`` on that nothing on this machine listens to."""
    for port in range(first, first + most):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise InputError(f"ports {first} to {first + most - 1} are all in use; free one of them")


def print_plan(config: RunConfig, lanes: tuple[PlannedLane, ...]) -> None:
    """The plan as one table per lane."""
    console = wide()
    console.print(f"{config.name}: config {config.digest}, {len(lanes)} lane(s)")
    for lane in lanes:
        need = ", ".join(f"{name} {value}" for name, value in lane.resources.items() if value)
        several = f"{lane.workers} workers, each " if lane.workers > 1 else ""
        begun = f"\nbegins with {lane.start}" if lane.start is not None else ""
        begun += f"\nmade of {', '.join(lane.merged)}" if lane.merged else ""
        begun += f"\n{COURSES[lane.course]}" if lane.course in COURSES else ""
        begun += (
            f"\nmeasured against {', '.join(lane.baselines.values())}" if lane.baselines else ""
        )
        if lane.evaluation["kind"] != "all":
            begun += f"\nevaluation {settings_text(lane.evaluation)}: {lane.scores} scores"
        told = f"{lane.trainer}, {lane.method}, seed {lane.seed}; {several}{need}"
        table = Table(
            title=f"{lane.lane} ({told}){begun}",
            title_justify="left",
        )
        for column in ("stage", "task", "domain", "waits for", "intervals", "experts", "params"):
            table.add_column(column)
        for stage in lane.stages:
            parameters = "-" if stage.parameters is None else f"{stage.parameters:,}"
            experts = _experts(stage.experts, stage.last_experts)
            other = stage.trained_by
            waits_for = stage.waits_for if other is None else f"trained by {other}"
            cells = (stage.id, stage.task, stage.domain, waits_for)
            table.add_row(*cells, str(stage.intervals), experts, parameters)
        console.print(table)
        if lane.memory is not None:
            text = "; ".join([_needs(lane.memory), *lane.memory_notes])
            console.print(text, markup=False, soft_wrap=True)
    stages, trained = sum(len(lane.stages) for lane in lanes), to_train(lanes)
    saved = f" instead of {stages}: lanes have first stages in common" if trained < stages else ""
    beside = to_train(lanes, baselines=True)
    baselines = f"; {beside} of them for baselines" if beside else ""
    console.print(f"stages to train: {trained}{saved}{baselines}")


COURSES = {
    "alone": "each task alone, from the lane's first model",
    "none": "scored as it begins, not trained",
}
"""Course of a lane that is not the stream's -> what its plan says of it."""


def _needs(memory: Memory) -> str:
    """The memory of one worker in one line; parts of its peak that come apart do not add up."""
    known = {"weights": memory.weights, "gradients": memory.gradients}
    known |= {"optimizer state": memory.optimizer, "its step": memory.update}
    parts = [f"{name} {_size(value)}" for name, value in known.items()]
    for name, value in (("activations", memory.activations), ("scoring", memory.scoring)):
        parts.append(f"{name} {'unknown' if value is None else _size(value)}")
    peak = "unknown" if memory.total is None else _size(memory.total)
    return f"memory of a worker beside its data: peak {peak} ({', '.join(parts)})"


def _size(count: int) -> str:
    """Bytes, as people read them."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024 and unit != "TiB":
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _experts(first: int | None, last: int | None) -> str:
    """``4``, ``4 to 6`` where the model grows inside a stage, or ``-``."""
    if first is None or last is None:
        return "-"
    return str(first) if first == last else f"{first} to {last}"


USED_BY = {"spaces": "spaces (not for a config: python -m tune_spaces NAME)"}
"""Headings of tables that something else than a config names."""


def print_tables(tables: Mapping[str, Mapping[str, str]]) -> None:
    """Print tables (name -> entry -> one line on it) as a tree: ``growstage list``."""
    tree = Tree("what a config can name (or give module:Class)")
    for name, entries in tables.items():
        branch = tree.add(USED_BY.get(name, name))
        for entry, text in entries.items():
            branch.add(f"{entry}: {text}")
    wide().print(tree, markup=False)


def print_entry(found: Entry) -> None:
    """One entry of a table: its keys one under the other, each with all that is known of it."""
    console = Console(highlight=False)
    console.print(f"{found.name}: {found.text}", markup=False)
    for key in found.keys:
        head = f"{key.name}: {key.type}" + (f" ({key.allowed})" if key.allowed else "")
        told = "required" if key.default == "required" else f"default {key.default}"
        console.print(Padding(Text(f"{head}; {told}", style="bold"), (0, 0, 0, 2)))
        if key.text:
            console.print(Padding(Text(key.text), (0, 0, 0, 6)))


def print_data(rows: list[Json]) -> None:
    """Data sets and where they are."""
    table = Table()
    for column in rows[0] if rows else ():
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    wide().print(table)
