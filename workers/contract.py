"""Everything the driver and a worker say to each other, as frozen values.

Knows no torch, no Ray and no file system: any process may import it in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

Json = Any
"""A value that JSON can hold: dict with string keys, list, str, int, float, bool or None."""


def digest(value: Json) -> str:
    """SHA-256 (16 hex digits) of a JSON value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(*parts: Json) -> int:
    """A 31-bit seed that depends on every part: (run seed, stage, edit number)."""
    return int(digest(list(parts)), 16) % (2**31 - 1)


# ---------------------------------------------------------------- what is to be learnt

WORKER_SECTIONS = ("stream", "model", "training", "method")
"""Sections of a lane's settings that its worker reads; the others are the driver's policies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task of a stream: what is learnt, named without loading its data."""

    index: int
    name: str
    domain: str
    """Label of tasks that share experts."""
    settings: dict[str, Json] = field(default_factory=dict)
    """What the stream needs to find the task's data or environment again; ``domains`` lists the
    domains of a task that mixes several."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Every domain that the task's samples belong to."""
        return tuple(self.settings.get("domains", (self.domain,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One task learnt once. Its id hashes everything it depends on, the parent's id included."""

    index: int
    task: TaskSpec
    intervals: int
    seed: int
    parent: str | None
    """Id of the stage whose model this one starts from; None for the untrained model."""
    settings_digest: str
    """Digest of the lane's settings (stream, model, training, method, growth)."""

    @property
    def id(self) -> str:
        return digest(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpec:
    """One pass over a stream (one method, one seed): all a worker needs to build it.

    ``settings`` holds the checked, fully defaulted sections ``stream``, ``model``, ``training``
    and ``method`` as plain JSON; the worker resolves their ``kind`` names through the tables.
    """

    lane: str
    engine: str
    """Key of ``workers.trainers.ENGINES``: ``supervised`` or ``rl``."""
    method: str
    seed: int
    settings: dict[str, Json]
    threads: int = 1
    """CPU threads a worker of this lane may use."""
    exact: bool = True
    """Whether a rerun from the same checkpoint gives the same bits (on CPU)."""
    strict_ops: bool = False
    """Refuse to train where the compiled kernels of the ops are missing."""
    workers: int = 1
    """Workers that train the lane together, each with a replica of the model."""

    @property
    def built_from(self) -> str:
        """Digest of all that decides the bits a worker builds and trains.

        Several workers round sums in another order than one. Policies are not among them: they
        act through edits only, so that lanes whose policies have not yet decided differently hold
        the same model.
        """
        several = {"workers": self.workers} if self.workers > 1 else {}
        return digest({name: self.settings.get(name) for name in WORKER_SECTIONS} | several)


# ---------------------------------------------------------------- edits


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why an edit was decided: the policy, what triggered it, and the figures it saw."""

    policy: str
    trigger: str
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grow:
    """Edit: every growable layer has ``experts`` experts afterwards (absolute, so idempotent)."""

    kind: Literal["grow"] = "grow"
    id: str
    stage: str
    """Id of the stage during which it is applied."""
    after_interval: int
    """Applied after this interval of the stage; 0 = before its first."""
    experts: int
    seed: int
    initialiser: str = "random"
    """Key of ``workers.moe.INITIALISERS``."""
    reading: Literal["unmask", "rescale"] = "unmask"
    """``unmask``: widths fixed by the final count; ``rescale``: widths shrink at each growth."""
    optimizer: Literal["keep", "reset"] = "keep"
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """An expert that ``RefreshMask`` copies, so that a domain has its own."""

    expert: int
    """Id of the copy."""
    parent: int
    owner: str
    """Domain whose tokens alone train the copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshMask:
    """Edit: which experts each domain may train, in every layer, afterwards (absolute).

    DES-MoE (arXiv 2509.16882), equations 6 and 9. All that decided the mask stands in the edit, so
    that a fold of the journal needs no policy.
    """

    kind: Literal["refresh_mask"] = "refresh_mask"
    id: str
    stage: str
    after_interval: int
    version: int
    """Version of the mask; every later step must be trained under it."""
    domains: tuple[str, ...]
    """Row order of ``masks`` and ``usage``."""
    masks: dict[str, list[list[int]]]
    """Layer -> domain -> 0 or 1 for each expert, copies included."""
    usage: dict[str, list[list[float]]] = field(default_factory=dict)
    """Layer -> domain -> share of the domain's tokens that chose each expert (the matrix A)."""
    copies: dict[str, list[Duplicate]] = field(default_factory=dict)
    """Layer -> experts this edit copies, in order of their ids."""
    exclusive: bool = False
    """Whether tokens of other domains cannot choose a copy in training."""
    owners: dict[str, dict[str, str]] = field(default_factory=dict)
    """Layer -> expert id -> owning domain: of the copies, or of claimed experts."""
    seed: int
    cause: Cause


Role = Literal["router", "backbone", "experts"]
"""What a phase may train: routers, experts, and all the rest of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPhase:
    """Edit: only these roles are trained afterwards (DES-MoE, arXiv 2509.16882, equation 11)."""

    kind: Literal["set_phase"] = "set_phase"
    id: str
    stage: str
    after_interval: int
    phase: str
    trains: tuple[Role, ...]
    adapt: bool = False
    """Adaptive routers take over from the linear ones trained so far: their teachers from now."""
    seed: int
    cause: Cause


Edit = Grow | RefreshMask | SetPhase
"""The union of edits; a new kind is a class here and a case in the appliers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """Shape of one growable layer: live experts, hidden width of each (0 = linear), parameters."""

    experts: int
    widths: tuple[int, ...]
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Shape of a whole model: its growable layers by name and its parameters in all."""

    layers: dict[str, LayerShape]
    parameters: int
    active: int
    """Parameters that one sample passes through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditReport:
    """What a replica answers to an edit. All replicas must give the same fingerprint."""

    edit: str
    fingerprint: str
    """Digest of architecture, frozen set and new parameters after the edit."""
    before: ModelShape
    after: ModelShape
    probe_change: float | None
    """Largest absolute output change on the probe batch; None where there was no probe."""
    parents: dict[str, list[int | None]] = field(default_factory=dict)
    """Layer -> parent expert id of each expert the edit added (None = not a copy)."""
    seconds: float


# ---------------------------------------------------------------- reports


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRef:
    """A durable checkpoint: where it is and what it must hash to."""

    uri: str
    digest: str
    seq: int
    """Sequence number of the last command whose effect it contains."""
    stage: str | None
    """Stage it was taken in; None for the untrained model."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Replica:
    """The process of one worker of several that train a lane together."""

    host: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenReport:
    """What stands open after build or restore."""

    shape: ModelShape
    seq: int
    """Last sequence number contained in what was restored (0 for a fresh model)."""
    backend: str
    """Which kernels answer the ops: ``compiled`` or ``reference``."""
    host: str
    pid: int
    replicas: tuple[Replica, ...] = ()
    """Where each worker of the lane runs, where it has several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReport:
    """The stage's data as seen by the worker that will train on it."""

    source: str
    """Human-readable origin, e.g. ``fashion_mnist train classes 0,1``."""
    data_digest: str
    samples: int | None
    """Training samples; None for an environment."""
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalReport:
    """What a worker did between two decisions."""

    stage: str
    n: int
    """Number of the interval inside its stage, from 1."""
    steps: int
    """Gradient steps (supervised) or environment steps (rl) since the stage began."""
    metrics: dict[str, float]
    usage: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> mean gate weight of each live expert over the interval."""
    counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Layer -> domain -> how many of its tokens chose each expert. Integers, so that sums over
    workers and intervals are exact."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Domain -> tokens trained on, each counted once a layer."""
    mask_version: int = 0
    """Version of the gradient masks the interval was trained under; 0 = none yet."""
    signals: dict[str, float] = field(default_factory=dict)
    """Figures a growth trigger may look at (loss slope, gradient norm, ...)."""
    seconds: float
    rss_mb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Scores of one checkpoint on tasks, in task order. Accuracy, or return as a share of the
    largest possible one: always between 0 and 1 for a model that is not worse than nothing."""

    scores: list[float]
    details: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task name -> further figures (loss, episode length, achievements, ...)."""
    usage: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Task name -> layer -> mean gate weight of each expert on that task."""
    probes: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    """Task name -> layer -> gate weights of each expert on the task's first test samples."""
    seconds: float


# ---------------------------------------------------------------- the two seams


class Trainer(Protocol):
    """One lane on one machine. The Ray actor is a shell around it; tests call it in-process."""

    def open(self, lane: LaneSpec, checkpoint: CheckpointRef | None) -> OpenReport: ...
    def start(self, stage: StageSpec) -> StartReport: ...
    def run_interval(self, n: int, mask_version: int = 0) -> IntervalReport: ...
    def apply(self, edit: Edit) -> EditReport: ...
    def save(self, uri: str, seq: int) -> CheckpointRef: ...
    def close(self) -> None: ...


class Evaluator(Protocol):
    """Scores checkpoints of lanes beside their training; keeps no state that matters."""

    def evaluate(
        self, lane: LaneSpec, checkpoint: CheckpointRef, tasks: tuple[TaskSpec, ...]
    ) -> EvaluationReport: ...


class RunError(Exception):
    """Base of the errors a run can end with; pickles with its arguments."""


class InputError(RunError):
    """The user's input is wrong: says what, where, what is allowed and the cure (exit code 2)."""


class LostError(RunError):
    """A process that the work needs is gone: a new worker starts from the last checkpoint."""


class DivergedError(RunError):
    """Replicas, or a rerun, disagree on what must be equal: training must stop."""
