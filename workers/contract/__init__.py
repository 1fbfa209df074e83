"""Everything the driver and a worker say to each other, as frozen values.

Knows no torch, no Ray and no file system: any process may import it in milliseconds.
"""

from workers.contract.edits import Cause, Duplicate, Edit, Grow, RefreshMask, Role, SetPhase
from workers.contract.errors import DivergedError, InputError, LostError, RunError
from workers.contract.identity import Json, derive_seed, digest
from workers.contract.protocols import Evaluator, Trainer
from workers.contract.reports import (
    CheckpointRef,
    EditReport,
    EvaluationReport,
    IntervalReport,
    LayerShape,
    ModelShape,
    OpenReport,
    Replica,
    StartReport,
)
from workers.contract.specs import WORKER_SECTIONS, LaneSpec, StageSpec, TaskSpec

__all__ = [
    "WORKER_SECTIONS",
    "Cause",
    "CheckpointRef",
    "DivergedError",
    "Duplicate",
    "Edit",
    "EditReport",
    "EvaluationReport",
    "Evaluator",
    "Grow",
    "InputError",
    "IntervalReport",
    "Json",
    "LaneSpec",
    "LayerShape",
    "LostError",
    "ModelShape",
    "OpenReport",
    "RefreshMask",
    "Replica",
    "Role",
    "RunError",
    "SetPhase",
    "StageSpec",
    "StartReport",
    "TaskSpec",
    "Trainer",
    "derive_seed",
    "digest",
]
