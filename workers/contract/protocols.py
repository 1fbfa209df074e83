"""The two seams between driver and worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from workers.contract.reports import (
    CheckpointRef,
    EditReport,
    EvaluationReport,
    IntervalReport,
    OpenReport,
    StartReport,
)
from workers.contract.specs import LaneSpec, StageSpec, Taken, TaskSpec

if TYPE_CHECKING:
    from workers.edits.base import Edit


class Trainer(Protocol):
    """One lane on one machine. The Ray actor is a shell around it; tests call it in-process."""

    def open(
        self, lane: LaneSpec, checkpoint: CheckpointRef | None, taken: Taken | None = None
    ) -> OpenReport:
        """Build the lane's model or restore it; ``taken``: the stage whose checkpoint another lane
        wrote, in lanes whose reruns are exact."""
        ...

    def start(self, stage: StageSpec) -> StartReport: ...
    def run_interval(self, n: int, revision: int = 0) -> IntervalReport:
        """Train interval ``n`` of the stage; DivergedError where the model has another revision."""
        ...

    def apply(self, edit: Edit) -> EditReport:
        """Change the model; DivergedError unless ``edit.check_next`` finds it to be the next."""
        ...

    def save(self, uri: str, seq: int) -> CheckpointRef: ...
    def close(self) -> None: ...


class Evaluator(Protocol):
    """Scores checkpoints of lanes beside their training; keeps no state that matters."""

    def evaluate(
        self, lane: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport: ...
