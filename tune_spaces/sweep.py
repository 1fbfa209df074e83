"""A sweep from the command line: cluster, search, tracking, display and results put together."""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from orchestrator.config import plan as planning
from orchestrator.config.toml import to_toml
from orchestrator.tracking.background import BackgroundTracker, TrackingAway
from tune_spaces import SPACES, search
from tune_spaces.objective import check_validated, parse
from tune_spaces.reservation import check_placeable
from tune_spaces.search import Plan, resume_option
from tune_spaces.stream_file import base_of, with_settings
from tune_spaces.summary import Attempt, as_json, attempts, best
from tune_spaces.trial import bundles
from workers.contract import InputError, Json
from workers.storage import is_remote
from workers.tables import Problem, lookup

GRACE = 2
"""Stages that a trial learns at least, where nothing else is asked for."""


def make_plan(
    space: str,
    base: Path | None,
    lane: str | None,
    *,
    objective: str | None,
    grace: int | None,
    **options: Any,
) -> Plan:
    """A checked plan; raises InputError where space, base and objective do not fit.

    ``grace``: None = two stages, or as many as every trial needs to have grown.
    """
    found = lookup(SPACES, space, "space")
    if isinstance(found, Problem):
        raise InputError(str(found))
    wanted = objective or found.objective  # type: ignore[attr-defined]
    parse(wanted)
    raw = base_of(found, base, lane, space)
    plan = Plan(
        id=f"{space}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}",
        space=space,
        raw=raw,
        objective=wanted,
        grace=grace or GRACE,
        **options,
    )
    config = plan.probe()
    check_validated(config.lanes[0])
    planning.plan(config)  # a model that cannot be built is told before any trial
    takes = plan.growth_takes()
    if grace is None:
        return replace(plan, grace=max(GRACE, takes))
    if grace < takes and plan.scheduler != "none":
        told = f"--grace {grace}: some trials grow in stage {takes} only, and may be stopped before"
        print(f"{told} they grew; --grace {takes} compares what they came to", file=sys.stderr)
    return plan


def create(plan: Plan, folder: Path | None) -> Path:
    """The sweep's new folder with its plan in it."""
    if folder is not None and is_remote(str(folder).replace(":/", "://", 1)):
        raise InputError(f"--sweep-dir {folder}: give a folder that every node reaches, no URI")
    place = (folder or Path("runs") / plan.id).resolve()
    search.save(plan, place)
    return place


def run(
    plan: Plan, folder: Path, tracking_uri: str | None, address: str | None, quiet: bool
) -> tuple[str, Json]:
    """Run the sweep in ``folder`` to its end, or go on with it; (status, summary)."""
    from rich.console import Console

    from orchestrator.cluster import connection
    from tune_spaces.tracking import SweepTracker, close_journals

    config = plan.probe()
    stages, objective = len(config.lanes[0].scored_tasks()), parse(plan.objective)
    tracker = SweepTracker(plan, folder, tracking_uri)
    console = Console(stderr=quiet, highlight=False)
    status = "interrupted"

    def prepare() -> None:
        import_module("tune_spaces.board")  # Tune takes a second to import
        tracker.connect()

    try:
        connection.connect_beside(prepare, address)
        from tune_spaces.board import Board

        check_placeable(bundles(config), connection.nodes())
        with BackgroundTracker(tracker, every=2.0), Board(console) as board:
            try:
                status = "done" if search.run(plan, folder, [board]) else "failed"
            except KeyboardInterrupt:
                print(f"interrupted; go on with {resume_option(folder)}", file=sys.stderr)
            connection.disconnect()
            reason = "the end of the sweep" if status == "done" else "an interrupt of the sweep"
            close_journals(attempts(folder, objective, stages), reason)
    finally:
        connection.disconnect()
    found = attempts(folder, objective, stages)
    summary = as_json(plan.id, folder, found, plan.base()) | {"status": status}
    _show(plan, folder, tracker, found, summary, console)
    return status, summary


def _show(
    plan: Plan, folder: Path, tracker: Any, found: list[Attempt], summary: Json, console: Any
) -> None:
    """Best configuration, figures, importance: on disk, in MLflow and on the terminal."""
    from orchestrator.report import terminal
    from tune_spaces.board import print_summary
    from tune_spaces.figures import importance, importance_bars, parallel_coordinates
    from tune_spaces.tracking import sweep_page

    texts: dict[str, str] = {}
    images: dict[str, bytes] = {}
    shares = importance(found, plan.parameters())
    summary["importance"] = shares
    winner = best(found)
    if winner is not None:
        texts["best.toml"] = best_toml(plan, winner)
        images["figures/parallel_coordinates.png"] = parallel_coordinates(found, plan.parameters())
        if shares:
            images["figures/importance.png"] = importance_bars(shares, plan.objective)
        (folder / "best.toml").write_text(texts["best.toml"], encoding="utf-8")
        for name, image in images.items():
            (folder / Path(name).name).write_bytes(image)
    try:
        tracker.finish(summary["status"], found, sweep_page(summary, texts, images))
    except TrackingAway as error:
        cure = resume_option(folder)
        print(f"MLflow takes no writes; {cure} catches up ({error})", file=sys.stderr)
    if not console.stderr:
        print_summary(console, summary, found, shares, folder)
        terminal.print_links(tracker.links(), folder, ("tree", "trials"))


def best_toml(plan: Plan, winner: Attempt) -> str:
    """The best trial as a stream file that ``growstage run`` takes."""
    head = f"# Best of sweep {plan.id}: {plan.objective} = {winner.values[-1]:.6g} after stage "
    return f"{head}{len(winner.values)}.\n" + to_toml(with_settings(plan.raw, winner.settings))
