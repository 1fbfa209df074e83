"""One run from the command line: cluster, journal, tracking, display and driver put together."""

from __future__ import annotations

import math
import sys
import time
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.beginning import (
    begin,
    check_same_config,
    joined,
    own_code,
    takeover,
    tracking_store,
)
from orchestrator.cluster.jobs import KEPT, check_kept, in_job
from orchestrator.cluster.placement import check_resources, needs, unplaceable
from orchestrator.config import changing
from orchestrator.config import file as configuration
from orchestrator.config.merging import names_models
from orchestrator.config.run import RunConfig
from orchestrator.config.toml import to_toml
from orchestrator.core.addresses import without_password
from orchestrator.core.clock import CLOCK, Clock
from orchestrator.core.folder import STREAM_FILE, RunFolder, open_folder
from orchestrator.core.hints import command
from orchestrator.core.journal import JOURNAL_FILE, Journal, acted, consistent, first_record, read
from orchestrator.core.records import Record
from orchestrator.driver import Driver
from workers.contract import InputError, Json

Place = str | Path
"""A path, or a URI that pyarrow or fsspec knows."""


def default_run_dir(config: RunConfig) -> str:
    """``runs/<name>-<time>`` under the working folder.

    Raises InputError inside a job, whose working folder is a copy that is deleted after it.
    """
    if in_job():
        raise InputError(
            f"--run-dir is missing: this job runs in Ray's copy of a folder, and what it wrote "
            f"there would be lost with it; {KEPT}"
        )
    return f"runs/{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def load(path: Path, overrides: Sequence[str], tracking_uri: str | None) -> RunConfig:
    """A stream file, checked; models that it names as MLflow does are looked up there."""
    return configuration.load(path, overrides, lambda raw: _settled(raw, tracking_uri))


def checked(raw: Json, source: str, tracking_uri: str | None) -> RunConfig:
    """The same of a stream file that was read already; ``source`` names it in messages."""
    return configuration.check(_settled(raw, tracking_uri), source)


def _settled(raw: Json, tracking_uri: str | None) -> Json:
    if not names_models(raw):
        return raw
    from orchestrator.tracking.named_models import settled

    return settled(raw, tracking_uri)


def as_run(path: Path, overrides: Sequence[str]) -> str:
    """A stream file's text as it is run: with the overrides laid over it, or as it stands."""
    text = path.read_text(encoding="utf-8")
    if not overrides:
        return text
    raw = overridden(tomllib.loads(text), overrides)
    return f"# {path} with {', '.join(overrides)}\n{to_toml(raw)}"


def overridden(raw: Mapping[str, Any], overrides: Sequence[str]) -> Json:
    """A copy of a raw stream file with ``a.b=value`` settings laid over it."""
    copy: Json = deepcopy(dict(raw))
    for item in overrides:
        configuration.override(copy, item)
    return copy


def run(
    config: RunConfig,
    run_dir: Place,
    tracking_uri: str | None,
    address: str | None,
    quiet: bool,
    wait_for_nodes: float = 0.0,
    text: str | None = None,
) -> str:
    """Run ``config`` in ``run_dir`` and return the run's status.

    A folder that already holds this config's journal is gone on with. ``text``: the stream file as
    it is run, for the folder. Raises InputError where it holds another config's.
    """
    if in_job():
        check_kept(run_dir)
    folder = open_folder(run_dir)
    started = first_record(folder.path)
    if started is not None and acted(folder.path):
        check_same_config(folder.place, started, config)
    return _drive(config, folder, tracking_uri, address, quiet, wait_for_nodes, text)


def resume(
    run_dir: Place,
    tracking_uri: str | None,
    address: str | None,
    quiet: bool,
    wait_for_nodes: float = 0.0,
    overrides: Sequence[str] = (),
) -> str:
    """Go on with the run whose journal is in ``run_dir``; returns its status.

    Raises InputError where ``overrides`` (``a.b=value``) would change what results depend on.
    """
    folder = open_folder(run_dir)
    started = first_record(folder.path)
    if started is None:
        raise InputError(f"{run_dir}: no journal there; give the folder of a run")
    settings = dict(map(configuration.setting, overrides))
    config = changing.changed(started, changing.before(folder.path) | settings)
    return _drive(config, folder, tracking_uri, address, quiet, wait_for_nodes, settings=settings)


def _drive(
    config: RunConfig,
    folder: RunFolder,
    tracking_uri: str | None,
    address: str | None,
    quiet: bool,
    wait_for_nodes: float,
    text: str | None = None,
    settings: Mapping[str, Json] | None = None,
) -> str:
    """Bring everything up in the order in which a failure costs least, and run."""
    say(f"run folder {folder.place}")
    store = tracking_store(folder.path, tracking_uri)
    journal = folder.journal()
    begin_journal(config, folder.path, store, journal)
    if text is not None:
        folder.put(STREAM_FILE, text.encode())

    from orchestrator.cluster import connection, on_ray
    from orchestrator.cluster.executor import PATIENCE_S
    from orchestrator.report import outputs, results, terminal
    from orchestrator.report.progress import make_progress
    from orchestrator.tracking.tracker import BackgroundTracker, Tracker
    from orchestrator.tracking.views import UI_PORT

    tracker = Tracker(folder.path, store, until=lambda: journal.offset)
    progress = make_progress(config, quiet)
    resources = {lane.name: lane.resources for lane in config.lanes}
    try:
        patience = PATIENCE_S if connection.named(address) is None else math.inf
        workers = on_ray.RayExecutor(folder.checkpoints, resources, patience=patience)
        driver = Driver(config, journal, workers, (progress.add,))
        if driver.state.status == "done":
            tracker.connect()
            tracker.project()  # what a tracking server that was away at the end has missed
            again = command("run", f"{folder.place}/{STREAM_FILE}", "--run-dir", "ANOTHER_FOLDER")
            done = f"{folder.place}: this run is done; nothing to go on with"
            print(f"{done}. To repeat it:\n  {again}", file=sys.stderr)
            return "done"
        known = acted(folder.path)
        for record, _ in read(journal.path):
            progress.add(record)
        say("joining Ray" if address else "starting Ray")
        connection.connect_beside(tracker.connect, address)
        say("waiting for the first worker")
        make_room(config, wait_for_nodes)
        modules = own_code(folder.path, config) if known else {}
        cpus, gpus = connection.cluster_size()
        with BackgroundTracker(tracker), progress:
            status = driver.run(
                takeover(cpus, gpus, store, modules, settings) if known else joined(cpus, gpus)
            )
    finally:
        connection.disconnect()
        journal.close()
    outputs.write_results(folder)
    if not quiet:
        results.print_report(report_of(folder.path))
        terminal.print_links(tracker.links(terminal.free_port(UI_PORT)), folder.place)
    return status


def say(text: str) -> None:
    """What is going on before there is any progress to show; results are never among it."""
    print(f"growstage: {text} ...", file=sys.stderr, flush=True)


def begin_journal(
    config: RunConfig,
    run_dir: Path,
    store: str | None,
    journal: Journal,
    clock: Clock = CLOCK,
) -> None:
    """Write down what the run is and was started with, before anything acts.

    A run that was begun and killed before anything acted is begun anew with what it is given now.
    """
    started = first_record(run_dir)
    same = started is not None and (started.config_digest, started.tracking_uri) == (
        config.digest,
        None if store is None else without_password(store),
    )
    if not same and not acted(run_dir):
        started = begin(config, f"{config.name}-{uuid.uuid4().hex[:8]}", store)
        journal.append(Record(event=replace(started, at=clock.now())))


def make_room(config: RunConfig, seconds: float) -> None:
    """Ask an autoscaler for all lanes' resources and wait until each lane fits on some node.

    Raises InputError where that is not so after ``seconds``.
    """
    from orchestrator.cluster import connection

    deadline = time.monotonic() + seconds
    if seconds:
        connection.ask_for_nodes(
            needs(lane.resources) for lane in config.lanes for _ in range(lane.workers)
        )
    while unplaceable(config, connection.nodes()) and time.monotonic() < deadline:
        time.sleep(1.0)
    check_resources(config, connection.nodes())


def report_of(run_dir: Place) -> Json:
    """The contract of ``growstage show --json`` for the run in ``run_dir``."""
    from orchestrator.report.history import report
    from orchestrator.tracking.tracker import tracked_offset

    path = open_folder(run_dir).path
    if first_record(path) is None:
        raise InputError(f"{path}: no record of a run there yet; give the folder of a run")
    records = (record for record, _ in read(path / JOURNAL_FILE))
    with consistent(path / JOURNAL_FILE):
        return report(records, tracked_offset(path))


def print_lineage(name: str, tracking_uri: str | None, as_json: bool) -> None:
    """Print the path of a model or stage, from MLflow alone."""
    from orchestrator.tracking.tracker import print_lineage as show

    show(name, tracking_uri, as_json)


def evaluate(
    run_dir: Place,
    policy: str,
    lane: str | None,
    stage: int | None,
    tasks: Sequence[str],
    tracking_uri: str | None,
    tracked: bool,
) -> Json:
    """A stage's model with an inference policy and without; recorded in MLflow where ``tracked``.

    Raises InputError where the run has no such stage, or the policy cannot answer for its model.
    """
    from orchestrator.report import inference

    settings, path = inference.settings(policy), open_folder(run_dir).path
    told = inference.evaluate(run_dir, settings, lane, stage, tasks)
    if tracked:
        from orchestrator.tracking.inference import record

        record(path, tracking_store(path, tracking_uri), told)
    return told
