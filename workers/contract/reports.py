"""What a worker answers: shapes, checkpoints and reports, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.contract.identity import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """Shape of one growable layer: live experts, hidden width of each (0 = linear), parameters."""

    experts: int
    widths: tuple[int, ...]
    parameters: int
    removed: tuple[int, ...] = ()
    """Ids of experts that are no longer there; no other one ever gets them."""

    @property
    def born(self) -> int:
        """Experts that were ever there: ids run from 0 to one below it."""
        return self.experts + len(self.removed)

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the live experts, in order."""
        return tuple(number for number in range(self.born) if number not in self.removed)


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
    figures: dict[str, float] = field(default_factory=dict)
    """What else the edit came to, e.g. how many units it made new."""
    seconds: float


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
    """What lineage should tell of the start, as text."""
    figures: dict[str, Json] = field(default_factory=dict)
    """Diagnostic -> what it measured of the model before the stage's first step, where a policy
    asked for it (``Policy.start_diagnostics``)."""


LEVELS = ("train_score", "return_share")
"""Signals that say how well the present task is done, 0 to 1: of supervised and of RL lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalReport:
    """What a worker did between two decisions."""

    stage: str
    n: int
    """Number of the interval inside its stage, from 1."""
    steps: int
    """Gradient steps (supervised) or environment steps (rl) since the stage began."""
    metrics: dict[str, float]
    gate_weights: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> mean routing weight of each expert by id over the interval's tokens, 0 to 1; 0 for
    one that was removed."""
    counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """Layer -> domain -> how many of its tokens chose each expert, by id. Integers, so that sums
    over workers and intervals are exact."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Domain -> tokens trained on, each counted once a layer."""
    sums: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Layer -> figure of its selector -> its sum over the interval's tokens, one entry or one for
    each live expert in order (``Selector.summed``)."""
    revision: int = 0
    """Edits that the model had taken in when the interval was trained."""
    signals: dict[str, float] = field(default_factory=dict)
    """Figures a growth trigger may look at (loss slope, gradient norm, ...)."""
    seconds: float
    rss_mb: float = 0.0

    @property
    def level(self) -> float | None:
        """How well the present task is done, 0 to 1; None where the interval did not measure it."""
        return next((self.signals[name] for name in LEVELS if name in self.signals), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Scores and figures of one checkpoint on tasks.

    A score is the mean over samples of the objective's per-sample score (accuracy), or the mean
    return as a share of the largest possible one: between 0 and 1 for a model that is not worse
    than nothing.
    """

    scores: list[float]
    """On the test part of each task, in task order: what is reported."""
    validation: list[float] = field(default_factory=list)
    """On the validation part of each task: what searches and policies choose by; empty where
    there is none."""
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    """Task name -> further figures (loss, episode length, ``<diagnostic>/<layer>``, ...)."""
    model_figures: dict[str, float] = field(default_factory=dict)
    """Figures of the model over all tasks: ``<diagnostic>`` or ``<diagnostic>/<part>``."""
    gate_weights: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Task name -> layer -> mean gate weight of each expert by id on that task."""
    probes: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    """Task name -> layer -> gate weights of each expert on the task's probe: the same few test
    samples over the whole lane."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that one worker needs beside its data, the libraries and the device's own room."""

    weights: int
    """Parameters and buffers."""
    gradients: int
    """Of the largest set of parameters that is trained at one time."""
    optimizer: int
    """What the optimizer keeps, master weights included, of all that is ever trained."""
    activations: int | None
    """The most that a forward and backward pass holds beside gradients, at the peak's phase; None =
    not known, because something in the model does not run on the meta device."""
    update: int
    """What the optimizer holds for the length of its step."""
    scoring: int | None
    """The most that the training score's forward pass holds."""
    total: int | None
    """The peak: not their sum, as the last three do not come together."""
