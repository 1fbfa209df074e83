"""Journals of small imagined runs, as records: two lanes, three stages, one growth each, and a
worker loss after which part of a stage is answered a second time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.core.events import (
    CheckpointSaved,
    ClusterChanged,
    EditApplied,
    EvaluationDone,
    Event,
    IntervalDone,
    LaneClosed,
    LaneOpened,
    RunFinished,
    RunStarted,
    StageStarted,
    WorkFailed,
)
from orchestrator.core.journal import JOURNAL_FILE, Journal
from orchestrator.core.plans import Budget, FailureKind, LanePlan, RunPlan
from orchestrator.core.records import Record, mark
from workers.contract import (
    CheckpointRef,
    EditReport,
    EvaluationReport,
    IntervalReport,
    LaneSpec,
    LayerShape,
    ModelShape,
    OpenReport,
    StageSpec,
    StartReport,
    TaskSpec,
    digest,
)
from workers.edits import Cause, Grow

TASKS = ("tops", "shoes, boots", "bags")
RUN_ID = "fashion-0a1b2c3d"
START = 1_790_000_000.0
FAILURES: tuple[FailureKind, ...] = ("worker_lost", "stage_error", "diverged", "evaluation")


def shape(experts: int) -> ModelShape:
    layer = LayerShape(experts=experts, widths=(8,) * experts, parameters=100 * experts)
    return ModelShape(layers={"body": layer}, parameters=50 + 100 * experts, active=150)


def score(method: str, seed: int, stage: int, task: int) -> float:
    """Untrained 0.1; a learnt task starts high and is lost faster by ``finetune``."""
    if task > stage:
        return 0.1
    loss = 0.12 if method == "replay" else 0.38
    return round(max(0.0, 0.93 - 0.02 * task - loss * (stage - task) + 0.01 * seed), 3)


class LaneStory:
    """Writes one lane's events in order; time and sequence numbers go on by themselves."""

    def __init__(self, method: str, seed: int, tasks: tuple[str, ...], start: float) -> None:
        self.name, self.method, self.seed, self.tasks = f"{method}-s{seed}", method, seed, tasks
        self.at, self.seq, self.attempt, self.experts = start, 0, 1, 1
        self.revision = 0
        self.parent: str | None = None

    def head(self, numbered: bool = True) -> dict[str, Any]:
        self.at += 1.0
        self.seq += numbered
        head = {"at": self.at, "lane": self.name, "attempt": self.attempt}
        return {**head, "seq": self.seq} if numbered else head

    def opened(self) -> LaneOpened:
        report = OpenReport(
            shape=shape(self.experts), seq=self.seq, backend="reference", host="h", pid=1
        )
        return LaneOpened(**self.head(numbered=False), report=report)

    def saved(self, index: int, stage: str | None) -> CheckpointSaved:
        head = self.head()
        ref = CheckpointRef(
            uri=f"file:///ckpt/{self.name}/{index}",
            digest=digest([self.name, index]) * 4,
            seq=head["seq"],
            stage=stage,
            bytes=4096,
        )
        return CheckpointSaved(**head, index=index, final=True, checkpoint=ref)

    def measured(self, index: int) -> EvaluationDone:
        self.at += 1.0
        scores = [score(self.method, self.seed, index, j) for j in range(len(self.tasks))]
        figures = {task: {"loss": 1.0 - s} for task, s in zip(self.tasks, scores, strict=True)}
        report = EvaluationReport(scores=scores, validation=scores, figures=figures, seconds=0.1)
        return EvaluationDone(at=self.at, lane=self.name, index=index, report=report)

    def spec(self, index: int) -> StageSpec:
        return StageSpec(
            index=index,
            task=task(index, self.tasks),
            intervals=2,
            seed=index,
            parent=self.parent,
            settings_digest=digest(self.name),
        )

    def started(self, spec: StageSpec) -> StageStarted:
        name = spec.task.name
        report = StartReport(
            source=f"imagined train {name}", data_digest=digest(name) * 4, samples=100
        )
        return StageStarted(**self.head(), stage=spec, report=report)

    def interval(self, spec: StageSpec, n: int) -> IntervalDone:
        weights = [1 / self.experts] * self.experts
        report = IntervalReport(
            stage=spec.id,
            n=n,
            steps=10 * n,
            metrics={"loss": 1.0 / (n + spec.index), "accuracy": 0.5 + 0.1 * n},
            gate_weights={"body": weights},
            signals={"slope": -0.1 * n},
            revision=self.revision,
            seconds=0.5,
            rss_mb=100.0,
        )
        return IntervalDone(**self.head(), report=report)

    def grown(self, spec: StageSpec, after: int) -> EditApplied:
        before, self.experts = self.experts, self.experts + 1
        self.revision += 1
        cause = Cause(policy="plateau", trigger="slope", figures={"slope": -0.1})
        edit = Grow(
            id=f"{spec.id}-e1",
            stage=spec.id,
            after_interval=after,
            revision=self.revision,
            experts=self.experts,
            seed=7,
            cause=cause,
        )
        report = EditReport(
            edit=edit.id,
            fingerprint=digest([self.name, self.experts]),
            before=shape(before),
            after=shape(self.experts),
            probe_change=0.0,
            parents={"body": [0]},
            seconds=0.01,
        )
        return EditApplied(**self.head(), edit=edit, report=report)

    def events(self, grow_at: int | None = 1, lose_at: int | None = None) -> Iterator[Event]:
        """All of a lane: growth in stage ``grow_at``, a worker loss in stage ``lose_at``."""
        yield self.opened()
        yield self.saved(-1, None)
        yield self.measured(-1)
        for index in range(len(self.tasks)):
            spec = self.spec(index)
            stage: list[Event] = [self.started(spec), self.interval(spec, 1)]
            if index == grow_at:
                stage.append(self.grown(spec, after=1))
            yield from stage
            if index == lose_at:
                yield from self.lost(stage, index)
            yield self.interval(spec, 2)
            yield self.saved(index, spec.id)
            yield self.measured(index)
            self.parent = spec.id
        yield LaneClosed(**self.head(numbered=False))

    def lost(self, stage: list[Event], index: int) -> Iterator[Event]:
        """The worker is gone; a new one answers the stage's commands again, seq by seq."""
        yield WorkFailed(**self.head(numbered=False), kind="worker_lost", index=index, message="x")
        self.attempt += 1
        yield self.opened()
        for event in stage:
            self.at += 1.0
            yield replace(event, at=self.at, attempt=self.attempt)  # type: ignore[type-var]


def task(index: int, names: tuple[str, ...] = TASKS) -> TaskSpec:
    return TaskSpec(index=index, name=names[index], domain="clothes", settings={"n": 2})


def config(lanes: list[tuple[str, int]], name: str = "fashion") -> dict[str, Any]:
    sections = {
        "trainer": "supervised",
        "stream": {"kind": "split", "dataset": "fashion_mnist"},
        "model": {"kind": "classifier", "hidden": [32]},
        "training": {"kind": "supervised", "intervals": 2, "lr": 0.1},
        "policies": {"growth": {"kind": "plateau"}},
    }
    return {
        "name": name,
        "failures": {"worker_lost": {"retries": 3, "then": "fail_lane"}},
        "lanes": [
            {"name": f"{m}-s{s}", "seed": s, **sections, "method": {"kind": m}} for m, s in lanes
        ],
    }


def plan(lanes: list[tuple[str, int]], tasks: tuple[str, ...] = TASKS) -> RunPlan:
    """What the imagined config comes to."""
    budget = Budget(retries=3, then="fail_lane")
    return RunPlan(
        lanes=tuple(
            LanePlan(
                spec=LaneSpec(
                    lane=f"{m}-s{s}", trainer="supervised", method=m, seed=s, settings={}
                ),
                tasks=tuple(task(index, tasks) for index in range(len(tasks))),
                intervals=2,
                cpus=1.0,
                gpus=0.0,
                depends=(digest(f"{m}-s{s}"),) * len(tasks),
                scored_on=digest(list(tasks)),
            )
            for m, s in lanes
        ),
        failures=dict.fromkeys(FAILURES, budget),
    )


def begun(
    lanes: list[tuple[str, int]], tasks: tuple[str, ...] = TASKS, run_id: str = RUN_ID
) -> list[Record]:
    """The two records that every run begins with."""
    settings = config(lanes)
    started = RunStarted(
        at=START,
        run_id=run_id,
        name=settings["name"],
        config=settings,
        config_digest=digest(settings),
        plan=plan(lanes, tasks),
        code_version="abc1234",
    )
    room = ClusterChanged(at=START, cpus=len(lanes), gpus=0)
    return [Record(event=started), Record(event=room)]


def recorded(events: list[Event]) -> list[Record]:
    """The events as records; an edit stands in the record of what its lane's worker said before."""
    records: list[Record] = []
    for event in events:
        if isinstance(event, EditApplied):
            place, before = next(
                (place, record)
                for place, record in reversed(list(enumerate(records)))
                if getattr(record.event, "lane", "") == event.lane
            )
            known = {edit.id for record in records for edit in record.edits}
            if event.edit.id not in known:
                records[place] = replace(before, edits=(*before.edits, event.edit))
        records.append(Record(event=event))
    return records


def story(
    lanes: tuple[tuple[str, int], ...] = (("replay", 0), ("finetune", 0)),
    tasks: tuple[str, ...] = TASKS,
    run_id: str = RUN_ID,
    lose_at: int | None = 1,
) -> list[Record]:
    """A whole run: lanes side by side (their events interleaved), the first one loses a worker."""
    told = [
        list(LaneStory(m, s, tasks, START + 0.1 * i).events(lose_at=lose_at if i == 0 else None))
        for i, (m, s) in enumerate(lanes)
    ]
    events = sorted((event for lane in told for event in lane), key=lambda event: event.at)
    events.append(RunFinished(at=events[-1].at + 1.0, status="done"))
    return [*begun(list(lanes), tasks, run_id), *recorded(events)]


def write(run_dir: Path, records: list[Record]) -> Path:
    """Append the records to the run's journal, as a driver does."""
    journal = Journal(run_dir / JOURNAL_FILE)
    journal.append(*records)
    journal.close()
    return journal.path


def replace_in(path: Path, old: str, new: str) -> None:
    """Put one text for another in every record of a journal, as if it had been written so."""
    after, lines = "", []
    for text in path.read_text().replace(old, new).splitlines():
        told = {**json.loads(text), "after": after}
        lines.append(json.dumps(told, separators=(",", ":")).encode() + b"\n")
        after = mark(lines[-1])
    path.write_bytes(b"".join(lines))
