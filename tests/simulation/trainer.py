"""A trainer whose model is the list of what was done to it, so that every wrong turn shows.

It keeps to the contract of ``workers.contract.Trainer`` and runs inside the real worker shells.
Checkpoints lie in ``CHECKPOINTS``, of which a history makes a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tests.simulation.chance import must
from workers.contract import (
    CheckpointError,
    CheckpointRef,
    DivergedError,
    EditReport,
    EvaluationReport,
    IntervalReport,
    LaneSpec,
    LayerShape,
    ModelShape,
    OpenReport,
    StageSpec,
    StartReport,
    Taken,
    TaskSpec,
)
from workers.edits import Edit, Grow
from workers.trainers import TRAINERS

Deed = tuple[Any, ...]
"""Something done to a model: ("begun", seed), ("stage", id), ("interval", n, revision), ("edit",
id, revision)."""


@dataclass(frozen=True, slots=True)
class Model:
    """All that was done to it."""

    deeds: tuple[Deed, ...] = ()
    digest: str = ""
    revision: int = 0
    experts: int = 1
    stage: str | None = None
    intervals: int = 0
    """Of the present stage."""

    def after(self, *deed: Any, **changes: Any) -> Model:
        told = hashlib.sha256(f"{self.digest}{deed}".encode()).hexdigest()[:16]
        return replace(self, deeds=(*self.deeds, deed), digest=told, **changes)

    @property
    def shape(self) -> ModelShape:
        layer = LayerShape(
            experts=self.experts, widths=(4,) * self.experts, parameters=10 * self.experts
        )
        return ModelShape(layers={"layer": layer}, parameters=layer.parameters, active=10)

    def share(self, what: str) -> float:
        """A number from 0 to 1 that follows from the model."""
        return int(hashlib.sha256(f"{self.digest}/{what}".encode()).hexdigest()[:8], 16) / 2**32


CHECKPOINTS: dict[str, tuple[CheckpointRef, Model]] = {}
"""uri -> what lies there, of the present history."""


def restored(ref: CheckpointRef) -> Model:
    """Raises InputError where it is not there, or is another one."""
    if ref.uri not in CHECKPOINTS:
        raise CheckpointError(f"checkpoint {ref.uri}: not there")
    found, model = CHECKPOINTS[ref.uri]
    if found != ref:
        raise CheckpointError(f"checkpoint {ref.uri}: is {found}, expected {ref}")
    return model


@contextmanager
def in_place() -> Iterator[None]:
    """Supervised lanes are trained by these inside the block, and nothing lies in CHECKPOINTS."""
    known = TRAINERS["supervised"]
    held = dict(CHECKPOINTS)
    CHECKPOINTS.clear()
    TRAINERS["supervised"] = replace(
        known,
        trainer="tests.simulation.trainer:SimulatedTrainer",
        evaluator="tests.simulation.trainer:SimulatedEvaluator",
    )
    try:
        yield
    finally:
        TRAINERS["supervised"] = known
        CHECKPOINTS.clear()
        CHECKPOINTS.update(held)


class SimulatedTrainer:
    """One lane's model; asks of each command what a real trainer relies on."""

    def __init__(self) -> None:
        self.model = Model()

    def open(
        self, lane: LaneSpec, checkpoint: CheckpointRef | None, taken: Taken | None = None
    ) -> OpenReport:
        if checkpoint is not None:
            self.model, seq = restored(checkpoint), checkpoint.seq
            if taken is not None:
                must(checkpoint.stage == (taken.stage and taken.stage.id), "another stage is taken")
        else:
            parents = () if lane.merged is None else lane.merged.parents
            made = [restored(one.checkpoint).digest for one in parents if one.checkpoint]
            must(len(made) == len(parents), lane.lane, "is made of models that are not there")
            first = Model(experts=lane.settings["model"]["experts"])
            self.model, seq = first.after("begun", lane.seed, *made), 0
        return OpenReport(shape=self.model.shape, seq=seq, backend="reference", host="h", pid=1)

    def start(self, stage: StageSpec) -> StartReport:
        self.model = self.model.after("stage", stage.id, stage=stage.id, intervals=0)
        return StartReport(source="simulated", data_digest=stage.task.name, samples=10)

    def run_interval(self, n: int, revision: int = 0) -> IntervalReport:
        model = self.model
        if revision != model.revision:
            raise DivergedError(f"interval {n} at revision {revision}, not {model.revision}")
        must(n == model.intervals + 1, "interval", n, "after", model.intervals)
        self.model = model = model.after("interval", n, revision, intervals=n)
        return IntervalReport(
            stage=str(model.stage),
            n=n,
            steps=10 * n,
            metrics={"loss": model.share("loss")},
            signals={"train_score": model.share("score"), "loss_slope": model.share("slope") - 0.5},
            revision=model.revision,
            seconds=0.1,
        )

    def apply(self, edit: Edit) -> EditReport:
        edit.check_next(self.model.revision)
        before = self.model
        experts = edit.experts if isinstance(edit, Grow) else before.experts
        self.model = before.after(
            "edit", edit.id, edit.revision, revision=edit.revision, experts=experts
        )
        born = {"layer": [0] * (experts - before.experts)} if experts > before.experts else {}
        return EditReport(
            edit=edit.id,
            fingerprint=self.model.digest,
            before=before.shape,
            after=self.model.shape,
            probe_change=0.0,
            parents=born,
            seconds=0.01,
        )

    def save(self, uri: str, seq: int) -> CheckpointRef:
        model = self.model
        ref = CheckpointRef(uri=uri, digest=model.digest, seq=seq, stage=model.stage, bytes=1)
        CHECKPOINTS[uri] = (ref, model)
        return ref

    def close(self) -> None:
        self.model = Model()


class SimulatedEvaluator:
    """Scores that follow from the checkpoint."""

    def evaluate(
        self, lane: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport:
        model = restored(checkpoint)
        scores = [model.share(task.name) for task in tasks]
        return EvaluationReport(scores=scores, validation=scores, seconds=0.1)
