"""What a policy is: asked between intervals, it answers with edits and what it will remember.

Pure: no clock, no randomness, no I/O. What it remembers is journalled with its edits, so that a
driver which takes over holds it again and never asks anew what was asked before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypedDict

from workers.contract import (
    IntervalReport,
    Json,
    ModelState,
    StageSpec,
    StartReport,
    TaskSpec,
    derive_seed,
)
from workers.edits import Prune, Role
from workers.edits.base import Cause, Edit


class EditFields(TypedDict):
    """Fields that every edit has, ``kind`` apart."""

    id: str
    stage: str
    after_interval: int
    revision: int
    seed: int
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts:
    """What holds for a lane from its first stage to its last."""

    tasks: tuple[TaskSpec, ...]
    domains: tuple[str, ...]
    """Every domain of the stream, in order of appearance."""
    seed: int
    intervals: int
    """Of each stage."""
    experts: int | None = None
    """Experts of the largest layer at the start; None = a model that knows no experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Where a lane stands after interval ``n`` of a stage."""

    stage: StageSpec
    stages: int
    """Stages of the stream."""
    n: int
    """The interval just finished; 0 = the stage's start, ``stage.intervals`` = its end."""
    steps: int
    """Steps since the lane began."""
    steps_before: int
    """The same at the decision before this one."""
    start: StartReport
    """The stage's data, and the diagnostics asked for at its start."""
    reports: tuple[IntervalReport, ...] = ()
    """Of this stage's intervals so far."""
    rows: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Index of an earlier stage (-1 = untrained) -> validation score on each task; empty unless
    the policy ``uses_scores``."""
    model: ModelState = field(default_factory=ModelState)
    """As decided so far, the edits of this decision counted in; its ``layers`` are as reported
    before them."""
    edits: int = 0
    """Edits decided in this stage, those of this decision included."""
    decided: tuple[Edit, ...] = ()
    """Edits of this decision so far, by this policy and those before it."""

    @property
    def report(self) -> IntervalReport | None:
        """The interval just finished; None at the stage's start."""
        return self.reports[-1] if self.n else None

    @property
    def signals(self) -> Mapping[str, float]:
        """Figures of the interval just finished that triggers look at; empty at a stage's start."""
        return self.report.signals if self.report is not None else {}

    @property
    def diagnostics(self) -> Mapping[str, Json]:
        """Diagnostic -> what it measured at the stage's start."""
        return self.start.figures

    def removed(self, layer: str) -> frozenset[int]:
        """Ids of the layer's experts that are gone, or will be by an edit of this decision."""
        gone = {n for edit in self.decided if isinstance(edit, Prune) for n in edit.of(layer)}
        return frozenset(gone.union(self.model.layers[layer].removed))

    def decides(self, kind: type[Edit]) -> bool:
        """Whether an edit of this kind is among those of this decision so far."""
        return any(isinstance(edit, kind) for edit in self.decided)

    def edit(
        self, *, policy: str, trigger: str, figures: Mapping[str, float] | None = None
    ) -> EditFields:
        """The fields that every edit has, for the next one of this decision.

        The seed depends on the lane's seed, the stage's index and the edit's number in it.
        """
        return {
            "id": f"{self.stage.id}-{self.edits}",
            "stage": self.stage.id,
            "after_interval": self.n,
            "revision": self.model.revision + 1,
            "seed": derive_seed(self.stage.seed, "edit", self.edits),
            "cause": Cause(policy=policy, trigger=trigger, figures=dict(figures or {})),
        }

    def after(self, edit: Edit) -> View:
        """What is seen once ``edit`` is decided too: by the next policy, or for a second edit."""
        return replace(
            self,
            model=edit.fold(self.model),
            edits=self.edits + 1,
            decided=(*self.decided, edit),
        )


Proposal = tuple[tuple[Edit, ...], Json]
"""(edits in order, what the policy will remember)."""


class Policy:
    """Base of policies. Each has a nested frozen dataclass ``Config`` whose first field is ``kind``
    and which may define ``problems(lane: LaneSettings) -> list[Problem]``."""

    uses_scores: ClassVar[bool] = False
    """Whether a stage starts only once the model before it was scored: ``View.rows``."""
    proposes: ClassVar[tuple[str, ...]] = ()
    """Kinds of edit it may propose; other configs ask for them."""
    by_domain: ClassVar[bool] = False
    """Whether its edits treat domains apart, so that the worker must know each sample's."""
    chooses_experts: ClassVar[bool] = False
    """Whether it trains some experts only, known once they are measured."""

    def __init__(self, config: Any, facts: LaneFacts) -> None:
        self.config = config
        self.facts = facts

    @property
    def first_stage(self) -> int:
        """First stage (from 0) in which it may propose or remember anything; it is not asked
        before. Lanes that differ in policies of later stages alone share the stages before."""
        return 0

    def propose(self, view: View, memory: Json) -> Proposal:
        """Edits to make now, and what to remember until asked again.

        Asked at each stage's start and after each of its intervals, the last one included. What
        is remembered must be a value that JSON can hold; ``memory`` is None at first.
        """
        raise NotImplementedError

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        """Experts of the largest layer at the stream's end; None = it cannot be known before."""
        return start

    def foreseeable(self, steps_per_stage: int | None) -> bool:
        """Whether stages and steps alone decide its edits, so that a plan may ask it with a view
        that holds no reports; ``steps_per_stage``: None = they depend on the data."""
        return False

    @property
    def start_diagnostics(self) -> tuple[str, ...]:
        """Names of ``workers.diagnostics.DIAGNOSTICS`` that the worker measures at a stage's
        start."""
        return ()

    @property
    def watches(self) -> tuple[str, ...]:
        """Names of the signals it looks at; what ``view.signals`` calls ``<name>/<layer>`` is
        asked for by its name."""
        return ()

    @property
    def trains(self) -> tuple[tuple[Role, ...], ...]:
        """Sets of roles, each trained alone at some time; none = it keeps nothing from training."""
        return ()

    @property
    def keeps_widths(self) -> bool:
        """Whether experts keep their width when it grows, so that the final number sets it."""
        return True

    def bounded(self, experts: int | None) -> Any:
        """The config with growth bounded by so many experts, where it says no bound itself."""
        return self.config
