"""A trial: a whole stream run by the same driver inside a Tune function, reporting once per stage.

The journal of each attempt is the truth; Tune's checkpoint only points at it. A trial that is
started again goes on from its journal, or, given another trial's checkpoint or other settings,
begins a new attempt with that trial's stages as its history.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.beginning import begin, joined, takeover
from orchestrator.cluster.placement import needs
from orchestrator.config.run import RunConfig
from orchestrator.core.events import RunStarted
from orchestrator.core.folder import RunFolder, open_folder
from orchestrator.core.journal import JOURNAL_FILE, first_record, read
from orchestrator.core.plans import TrialRef
from orchestrator.core.records import Record
from orchestrator.driver import Driver, Executor, Interrupted
from orchestrator.report.history import RunHistory
from orchestrator.report.lane_history import LaneHistory
from tune_spaces.inherit import inherited
from tune_spaces.objective import Objective, parse, scores_of
from tune_spaces.shared import SharingExecutor, Store
from tune_spaces.stream_file import trial_config
from workers.contract import CheckpointRef, Json, RunError
from workers.storage import join

POINTER = "trial.json"
PATIENCE_S = 60.0
"""How long a journal may still be held by a driver that is being killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What all trials of a sweep have in common."""

    id: str
    folder: str
    """Path that every node reaches."""
    raw: Json
    """Stream file of one lane, before a trial's settings."""
    objective: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What a Tune checkpoint holds: so many stages of the run in this folder."""

    run: str
    folder: str
    stage: int


class Reporter:
    """Listener of a trial's driver: tells Tune of every stage once, and stops when Tune says so.

    The last stage is told when the run is finished: Tune ends a trial upon it.
    """

    def __init__(
        self,
        objective: Objective,
        stages: int,
        reported: int,
        report: Callable[[Json, int], None],
    ) -> None:
        """``stages``: of the stream; ``reported``: those Tune already knows; ``report`` is given
        (figures, stages)."""
        self.history = RunHistory()
        self.objective = objective
        self.stages = stages
        self.reported = reported
        self.report = report

    def __call__(self, record: Record) -> None:
        self.history.add(record)
        (lane,) = self.history.lanes.values()
        last = self.stages if self.history.status == "done" else self.stages - 1
        while self.reported < min(last, len(lane.complete())):
            self.reported += 1
            self.report(self._figures(lane, self.reported), self.reported)

    def _figures(self, lane: LaneHistory, stages: int) -> Json:
        experts = [layer.experts for layer in lane.shape.layers.values()] if lane.shape else []
        assert self.history.started is not None
        assert self.history.started.trial is not None
        return {
            "name": self.history.started.trial.name,
            "stage": stages,
            "objective": self.objective(scores_of(lane), stages),
            "experts": max(experts, default=0),
            "edits": len(lane.edits),
        }


def run_trial(settings: Mapping[str, Any], sweep: Sweep, store: Any) -> None:
    """Tune's function: run the trial to its end, or until the scheduler stops it."""
    from ray import tune

    trial = tune.get_context().get_trial_id()
    config = trial_config(sweep.raw, settings)
    pointer = _pointer(tune.get_checkpoint())
    folder, started = attempt(sweep, trial, dict(settings), config, pointer)
    stopped = False

    def report(figures: Json, stages: int) -> None:
        nonlocal stopped
        try:
            with tempfile.TemporaryDirectory() as temporary:
                content = {"run": started.run_id, "folder": folder.place, "stage": stages}
                (Path(temporary) / POINTER).write_text(json.dumps(content))
                checkpoint = tune.Checkpoint.from_directory(temporary)
                tune.report({**figures, "folder": folder.place}, checkpoint=checkpoint)
        except SystemExit:
            stopped = True
            raise Interrupted("the search") from None

    known = pointer.stage if pointer else 0
    reporter = Reporter(parse(sweep.objective), len(config.lanes[0].scored_tasks()), known, report)
    status = drive(config, folder, started, reporter, StoreClient(store))
    if stopped:
        sys.exit(0)
    if status != "done":
        raise RunError(
            f"{folder.place}: {status}; see `growstage show {shlex.quote(folder.place)}`"
        )


def drive(
    config: RunConfig, folder: RunFolder, started: RunStarted, listener: Reporter, store: Store
) -> str:
    """Run the attempt in ``folder`` to its end; returns the run's status."""
    from orchestrator.cluster.on_ray import RayExecutor

    (lane,) = config.lanes
    journal = folder.journal(PATIENCE_S)
    workers: Executor = RayExecutor(
        folder.checkpoints, {lane.name: lane.resources}, owns_cluster=False
    )
    if lane.spec().exact and not config.checkpoint_every:
        workers = SharingExecutor(workers, store, started.run_id)
    try:
        driver = Driver(config, journal, workers, (listener,))
        known = [record for record, _ in read(journal.path)]
        for record in known:
            listener(record)
        if driver.state.status == "done":
            return "done"
        if known:
            return driver.run(takeover(lane.cpus, lane.gpus))
        return driver.run(started, joined(lane.cpus, lane.gpus))
    except Interrupted:  # before the driver ran: Tune stopped what was only being read
        return "interrupted"
    finally:
        journal.close()


def attempt(
    sweep: Sweep, trial: str, settings: Json, config: RunConfig, pointer: Pointer | None
) -> tuple[RunFolder, RunStarted]:
    """The folder of the trial's attempt and the event that began, or begins, its journal."""
    number, last = 0, None
    folder = _folder(sweep, trial, number)
    while (begun := first_record(folder.path)) is not None:
        number, last = number + 1, (folder, begun)
        folder = _folder(sweep, trial, number)
    if last is not None and last[1].config_digest == config.digest:
        own = (last[1].run_id, last[1].trial.parent if last[1].trial else None)
        if pointer is None or pointer.run in own:
            return last
    return folder, _begin(sweep, trial, number, settings, config, pointer, folder)


def _begin(
    sweep: Sweep,
    trial: str,
    number: int,
    settings: Json,
    config: RunConfig,
    pointer: Pointer | None,
    folder: RunFolder,
) -> RunStarted:
    """The first event of a new attempt; one that goes on from a donor is given its history."""
    donor = open_folder(pointer.folder) if pointer else None
    ref = TrialRef(
        sweep=sweep.id,
        trial=trial,
        attempt=number,
        name=trial_name(trial, number, settings),
        settings=settings,
        parent=pointer.run if pointer else None,
    )
    started = begin(config, f"{sweep.id}/{trial}/{number}", trial=ref)
    if pointer is not None and donor is not None:
        records = (record for record, _ in read(donor.path / JOURNAL_FILE))
        adopt = _adopter(config, folder)
        folder.begin(inherited(started, pointer.run, records, pointer.stage, adopt))
    return started


def _adopter(config: RunConfig, folder: RunFolder) -> Callable[[CheckpointRef], CheckpointRef]:
    """Copies a donor's checkpoint into ``folder`` as one of this config's lane."""
    from workers.checkpoint import adopt

    (lane,) = config.lanes
    place = join(folder.checkpoints, f"{lane.name}/adopted")
    changes = {"settings_digest": lane.spec().built_from}
    return lambda ref: adopt(ref, place, changes)


def _folder(sweep: Sweep, trial: str, number: int) -> RunFolder:
    return open_folder(join(sweep.folder, f"trials/{trial}/{number}"))


def trial_name(trial: str, number: int, settings: Json) -> str:
    """Short text for people: ``00003 · add=2 every=1``; a later attempt is counted."""
    chosen = " ".join(
        f"{key.rpartition('.')[2]}={value:.3g}" if isinstance(value, float)
        else f"{key.rpartition('.')[2]}={value}"
        for key, value in settings.items()
    )  # fmt: skip
    again = f" (attempt {number + 1})" if number else ""
    return f"{trial.rpartition('_')[2]}{again} · {chosen}"


def _pointer(checkpoint: Any) -> Pointer | None:
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return Pointer(**json.loads((Path(folder) / POINTER).read_text()))


class StoreClient:
    """The stage store behind its actor's handle."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def ask(self, key: str, run: str) -> Any:
        return self._call(self._actor.ask, key, run)

    def peek(self, key: str) -> Any:
        return self._call(self._actor.peek, key)

    def tell(self, key: str, run: str, event: Json) -> None:
        self._call(self._actor.tell, key, run, event)

    def forget(self, uri: str) -> None:
        self._call(self._actor.forget, uri)

    def renew(self, run: str) -> None:
        self._actor.renew.remote(run)

    def drop(self, run: str) -> None:
        self._actor.drop.remote(run)

    @staticmethod
    def _call(method: Any, *args: Any) -> Any:
        import ray

        return ray.get(method.remote(*args))


def bundles(config: RunConfig) -> list[dict[str, float]]:
    """What a trial reserves: nothing for its driver, a bundle for each worker and helper."""
    (lane,) = config.lanes
    helpers = lane.sections["training"].helpers
    evaluator = {"CPU": lane.resources.evaluator_cpus, "GPU": lane.resources.evaluator_gpus}
    wanted = {name: amount for name, amount in evaluator.items() if amount > 0}
    workers = [needs(lane.resources)] * lane.workers
    parts = [*workers, *[{"CPU": 1.0}] * helpers, *([wanted] if wanted else [])]
    return [{}, *parts]
