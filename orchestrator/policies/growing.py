"""Growth by a trigger: what all triggers have in common, in one place.

``Pace`` says when evidence counts, ``LAYERS`` which layers grow, ``Triggered`` puts both together
with what a trigger looks at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

from orchestrator.policies.base import Policy, Proposal, View
from orchestrator.policies.lane_checks import even_schedules
from orchestrator.policies.signals import unfilled, usage_entropies
from workers.contract import Json, LaneSettings
from workers.edits import Grow
from workers.tables import Problem, choice


def _initialisers() -> Mapping[str, type]:
    from workers.moe import INITIALISERS

    return INITIALISERS


class Evidence(NamedTuple):
    """Why a model should grow: the trigger in a few words, and the figures it saw."""

    trigger: str
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Pace:
    """When evidence counts: ``patience`` decisions with it in a row, ``cooldown`` intervals or
    more after the last growth."""

    patience: int
    cooldown: int

    def step(self, row: int, last: int | None, now: int, found: bool) -> tuple[bool, int]:
        """(whether it counts now, decisions in a row with evidence). ``last``: interval of the
        lane in which it last grew."""
        if last is not None and now - last < self.cooldown:
            return False, 0
        row = row + 1 if found else 0
        return row >= self.patience, row


Layer = Callable[[View], "str | None"]


def _most_even(view: View) -> str | None:
    """The layer whose experts are used most evenly: all of them are needed."""
    return _largest(view, usage_entropies(view))


def _by(diagnostic: str) -> Layer:
    """By a figure of the stage's start; a layer that has none, as of a router with one expert,
    comes first."""

    def pick(view: View) -> str | None:
        told = view.diagnostics.get(diagnostic, {})
        return _largest(view, {layer: told.get(layer, math.inf) for layer in view.model.layers})

    return pick


def _largest(view: View, figures: Mapping[str, float]) -> str | None:
    known = {layer: figures[layer] for layer in view.model.layers if layer in figures}
    return max(known, key=lambda layer: known[layer], default=None)


ALL = "all"
LAYERS: Mapping[str, Layer] = {
    ALL: lambda view: None,
    "usage_entropy": _most_even,
    "gate_gradient_variance": _by("gate_gradient_variance"),
    "curvature": _by("curvature"),
}
"""Which layer grows, by name; None = all of them."""
Where = Literal["all", "usage_entropy", "gate_gradient_variance", "curvature"]


class Triggered(Policy):
    """Base of policies that grow the model on evidence. A subclass gives ``look``.

    Evidence after a stage's last interval grows the model at the next stage's start, since nothing
    would train the new experts before. With each growth what the trigger has seen is forgotten:
    its figures are those of another model.
    """

    proposes: ClassVar[tuple[str, ...]] = ("grow",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How far and how fast it grows, where, and what new experts start from."""

        kind: str
        add: int = 1
        """Experts added at each growth."""
        max_experts: int | None = None
        """No layer grows beyond this many live ones; None = the model's max_experts."""
        patience: int = 1
        """Decisions in a row that must see evidence."""
        cooldown: int = 2
        """Intervals after a growth in which none follows."""
        layers: Where = "all"
        """Which layers grow: ``all``, or the one with the largest ``usage_entropy`` in the interval
        of the evidence, or ``gate_gradient_variance`` or ``curvature`` at the stage's start."""
        initialiser: Any = choice(_initialisers, "random")
        """What a new expert and its router row start from: a name, or a table with settings."""
        optimizer: Literal["keep", "reset"] = "keep"
        """Whether the optimizer keeps its state of old parameters."""

        def __post_init__(self) -> None:
            for name in ("add", "patience"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if self.cooldown < 0:
                raise ValueError(f"cooldown must not be negative, got {self.cooldown}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Signals must be filled, widths known, layers able to grow one by one."""
            found = unfilled(lane, self.watched, "signal")
            if lane.experts is not None and lane.final_experts is None and lane.max_experts is None:
                found.append(Problem("max_experts", "missing", "needs this or model.max_experts"))
            if self.layers != ALL:
                found += even_schedules(lane, "layers")
            if self.layers in ("gate_gradient_variance", "curvature") and lane.acts:
                allowed = "use layers = 'all' or 'usage_entropy'"
                found.append(Problem("layers", "a lane that acts has no such figure", allowed))
            return found

        @property
        def watched(self) -> tuple[str, ...]:
            """Names of the signals it looks at."""
            return ()

    config: Config

    def look(self, view: View, memory: Json) -> tuple[Evidence | None, Json]:
        """What speaks for growth now, and what to remember; asked at every decision, ``memory`` is
        None at first and after each growth."""
        raise NotImplementedError

    @property
    def watches(self) -> tuple[str, ...]:
        return self.config.watched

    @property
    def start_diagnostics(self) -> tuple[str, ...]:
        chosen = self.config.layers
        return (chosen,) if chosen in ("gate_gradient_variance", "curvature") else ()

    def propose(self, view: View, memory: Json) -> Proposal:
        """Remembers what the trigger does, evidence in a row, the interval of the last growth, and
        a growth that is due."""
        told = memory or {"own": None, "row": 0, "last": None, "due": None}
        now = view.stage.index * self.facts.intervals + view.n
        found, own = self.look(view, told["own"])
        pace = Pace(self.config.patience, self.config.cooldown)
        counts, row = pace.step(told["row"], told["last"], now, found is not None)
        if view.report is None and found is None:
            row = told["row"]  # a stage's start, at which there may be nothing to see
        due = told["due"]
        if counts and found is not None:
            due = [found.trigger, found.figures, LAYERS[self.config.layers](view)]
        waiting = {"own": own, "row": row, "last": told["last"], "due": due}
        if due is None or view.n >= view.stage.intervals:
            return (), waiting
        edit = self._growth(view, *due)
        if edit is None:
            return (), {**waiting, "due": None}
        return (edit,), {"own": None, "row": 0, "last": now, "due": None}

    def _growth(
        self, view: View, trigger: str, figures: dict[str, float], layer: str | None
    ) -> Grow | None:
        """The edit, in one layer or (None) in all; None where what would grow is full."""
        live = {name: s.experts for name, s in view.model.layers.items() if layer in (None, name)}
        most = max(live.values(), default=view.model.experts)
        limit, add = self.config.max_experts, self.config.add
        add = add if limit is None else min(add, limit - most)
        if add < 1:
            return None
        born = view.model.experts if layer is None else view.model.layers[layer].born
        fields = view.edit(policy=self.config.kind, trigger=trigger, figures=figures)
        return Grow(
            **fields,
            experts=born + add,
            layers=None if layer is None else (layer,),
            initialiser=asdict(self.config.initialiser),
            optimizer=self.config.optimizer,
        )

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        limit = self.config.max_experts
        return None if limit is None else max(start, limit)

    def bounded(self, experts: int | None) -> Config:
        own = self.config.max_experts
        return replace(self.config, max_experts=experts if own is None else own)
