"""What a run knows of itself: frozen values that only the controller makes anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.core.events import Command, FailureKind
from workers.contract import (
    CheckpointRef,
    LaneSpec,
    RefreshMask,
    SetPhase,
    StageSpec,
    TaskSpec,
)

LaneStatus = Literal["waiting", "opening", "running", "closing", "done", "failed"]
RunStatus = Literal["running", "interrupted", "failed", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneResources:
    """What the lane's workers reserve together."""

    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialisation:
    """What a lane's experts are specialised by: the last mask and phase, and counts since then."""

    mask: RefreshMask | None = None
    phase: SetPhase | None = None
    counts: Mapping[str, Mapping[str, list[int]]] = field(default_factory=dict)
    """Layer -> domain -> tokens that chose each expert since the last mask."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Domain -> tokens trained on since the last mask."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """Layer -> live experts."""

    @property
    def version(self) -> int:
        """Version of the masks; 0 = none yet."""
        return 0 if self.mask is None else self.mask.version


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """Where one lane stands.

    ``queue`` holds the commands decided since the last durable checkpoint, in order of ``seq``.
    ``answered`` is the last seq ever answered, ``executed`` the last one the current worker has
    executed: after a loss ``executed`` falls back and the queue is issued again.
    """

    spec: LaneSpec
    tasks: tuple[TaskSpec, ...]
    intervals: int
    resources: LaneResources
    status: LaneStatus = "waiting"
    attempt: int = 0
    stage: StageSpec | None = None
    index: int = -1
    """Index of the current stage; -1 while the untrained model is being saved."""
    queue: tuple[Command, ...] = ()
    next_seq: int = 1
    answered: int = 0
    executed: int = 0
    base: CheckpointRef | None = None
    """Last durable checkpoint: what a new worker starts from."""
    parent: CheckpointRef | None = None
    """Checkpoint of the last complete stage: what a skipped stage falls back to."""
    experts: int = 1
    parent_experts: int = 1
    special: Specialisation = Specialisation()
    parent_special: Specialisation = Specialisation()
    """The same at the last complete stage."""
    edits: int = 0
    """Edits decided in the current stage."""
    steps_before: int = 0
    steps: int = 0
    fingerprints: Mapping[int, str] = field(default_factory=dict)
    """Fingerprint each answered edit of this stage gave, by seq."""
    retries: Mapping[FailureKind, int] = field(default_factory=dict)
    """Failures since a stage was last completed or given up, by kind."""

    @property
    def active(self) -> bool:
        """Whether the lane holds a worker."""
        return self.status in ("opening", "running", "closing")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run: its lanes, the evaluations under way, and the room there is on the cluster."""

    lanes: Mapping[str, LaneState] = field(default_factory=dict)
    evaluations: Mapping[tuple[str, int], CheckpointRef] = field(default_factory=dict)
    """Evaluations asked for and not answered: (lane, stage index) -> checkpoint."""
    evaluation_retries: Mapping[tuple[str, int], int] = field(default_factory=dict)
    cpus: float = 0.0
    gpus: float = 0.0
    status: RunStatus = "running"
