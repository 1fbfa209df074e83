"""One run from the command line: cluster, journal, tracking, display and driver put together."""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path

from orchestrator import config as configuration
from orchestrator.config import RunConfig
from orchestrator.driver import (
    Driver,
    begin,
    check_resources,
    check_same_config,
    first_record,
    takeover,
)
from orchestrator.events import RunResumed, RunStarted
from orchestrator.journal import JOURNAL_FILE, Journal, read
from workers.contract import InputError, Json

CHECKPOINTS = "checkpoints"


def default_run_dir(config: RunConfig) -> Path:
    """``runs/<name>-<time>`` under the working folder."""
    return Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def run(
    config: RunConfig, run_dir: Path, tracking_uri: str | None, address: str | None, quiet: bool
) -> str:
    """Run ``config`` in ``run_dir`` and return the run's status.

    A folder that already holds this config's journal is gone on with. Raises InputError where it
    holds another config's.
    """
    run_dir = run_dir.resolve()
    started = first_record(run_dir)
    if started is not None:
        check_same_config(run_dir, started, config)
    return _drive(config, run_dir, started, tracking_uri, address, quiet)


def resume(run_dir: Path, tracking_uri: str | None, address: str | None, quiet: bool) -> str:
    """Go on with the run whose journal is in ``run_dir``; returns its status."""
    run_dir = run_dir.resolve()
    started = first_record(run_dir)
    if started is None:
        raise InputError(f"{run_dir}: no journal there; give the folder of a run")
    config = configuration.restore(started.config)
    return _drive(config, run_dir, started, tracking_uri, address, quiet)


def _drive(
    config: RunConfig,
    run_dir: Path,
    started: RunStarted | None,
    tracking_uri: str | None,
    address: str | None,
    quiet: bool,
) -> str:
    """Bring everything up in the order in which a failure costs least, and run."""
    from orchestrator import display, executor
    from orchestrator.tracking import BackgroundTracker, Tracker

    journal = Journal(run_dir / JOURNAL_FILE)
    tracker = Tracker(run_dir, tracking_uri)
    tracker.connect()
    progress = display.make_progress(config, quiet)
    resources = {lane.name: lane.resources for lane in config.lanes}
    try:
        workers = executor.RayExecutor(run_dir / CHECKPOINTS, resources)
        driver = Driver(config, journal, workers, (progress.add,))
        if driver.state.status == "done":
            tracker.project()  # what a tracking server that was away at the end has missed
            print(f"{run_dir}: this run is done; nothing to go on with", file=sys.stderr)
            return "done"
        for record, _ in read(journal.path):
            progress.add(record)
        cpus, gpus = executor.connect(address)
        check_resources(config, cpus, gpus)
        first: RunStarted | RunResumed = (
            begin(config, f"{config.name}-{uuid.uuid4().hex[:8]}", cpus, gpus)
            if started is None
            else takeover(cpus, gpus)
        )
        with BackgroundTracker(tracker), progress:
            status = driver.run(first)
    finally:
        executor.disconnect()
        journal.close()
    if not quiet:
        display.print_report(report_of(run_dir))
        display.print_links(tracker.links(), run_dir)
    return status


def report_of(run_dir: Path) -> Json:
    """The contract of ``growstage show --json`` for the run in ``run_dir``."""
    from orchestrator.report import report
    from orchestrator.tracking import tracked_offset

    records = (record for record, _ in read(run_dir / JOURNAL_FILE))
    return report(records, tracked_offset(run_dir))


def print_lineage(name: str, tracking_uri: str | None, as_json: bool) -> None:
    """Print the path of a model or stage, from MLflow alone."""
    from orchestrator.tracking import print_lineage as show

    show(name, tracking_uri, as_json)
