"""Everything the driver and a worker say to each other, as frozen values.

Knows no torch, no Ray and no file system: any process may import it in milliseconds.
"""

from workers.contract.errors import CheckpointError, DivergedError, InputError, LostError, RunError
from workers.contract.identity import Json, derive_seed, digest
from workers.contract.lane_settings import (
    Checked,
    LaneSettings,
    WithChangeable,
    WithExperts,
    WithRoutedLayers,
    before_edits,
    nested,
)
from workers.contract.model_state import ModelState
from workers.contract.protocols import Evaluator, Trainer
from workers.contract.reports import (
    CheckpointRef,
    EditReport,
    EvaluationReport,
    IntervalReport,
    LayerShape,
    Memory,
    ModelShape,
    OpenReport,
    Replica,
    StartReport,
)
from workers.contract.specs import (
    LaneSpec,
    Merged,
    Parent,
    StageSpec,
    Start,
    Taken,
    TaskSpec,
    domains_of,
)

__all__ = [
    "Checked",
    "CheckpointError",
    "CheckpointRef",
    "DivergedError",
    "EditReport",
    "EvaluationReport",
    "Evaluator",
    "InputError",
    "IntervalReport",
    "Json",
    "LaneSettings",
    "LaneSpec",
    "LayerShape",
    "LostError",
    "Memory",
    "Merged",
    "ModelShape",
    "ModelState",
    "OpenReport",
    "Parent",
    "Replica",
    "RunError",
    "StageSpec",
    "Start",
    "StartReport",
    "Taken",
    "TaskSpec",
    "Trainer",
    "WithChangeable",
    "WithExperts",
    "WithRoutedLayers",
    "before_edits",
    "derive_seed",
    "digest",
    "domains_of",
    "nested",
]
