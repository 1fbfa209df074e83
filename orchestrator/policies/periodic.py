"""Growth at fixed times: every so many stages or steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from orchestrator.policies.base import Policy, Proposal, View
from workers.contract import Json, LaneSettings
from workers.edits import Grow
from workers.tables import Problem, choice


def _initialisers() -> Mapping[str, type]:
    from workers.moe import INITIALISERS

    return INITIALISERS


class Periodic(Policy):
    """Adds experts every so many stages or steps, as DynamicMoE (arXiv 2511.18987) does.

    It remembers how many growths are due: one that falls into a stage's last interval is made at
    the start of the next stage, since nothing would train it before; at the stream's end it is
    left out. Several multiples inside one interval add several times ``add`` at once.
    """

    proposes: ClassVar[tuple[str, ...]] = ("grow",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """When, how many, and what new experts start from."""

        kind: str = "periodic"
        every: int = 1
        """Stages or steps between two growths."""
        unit: Literal["stages", "steps"] = "stages"
        """``stages``: at the start of a stage, before its data are seen; ``steps``: at the first
        interval end past each multiple."""
        first: int | None = None
        """Steps before the first growth, for unit ``steps``: growth away from the shifts of a
        stream whose stages are ``every`` steps long; None = ``every``."""
        add: int = 1
        """Experts added at each growth (granularity g)."""
        max_experts: int | None = None
        """No growth beyond this many; None = the model's max_experts."""
        initialiser: Any = choice(_initialisers, "random")
        """What a new expert and its router row start from: a name, or a table with settings."""
        reading: Literal["unmask", "rescale"] = "unmask"
        """``unmask``: widths fixed by the final count; ``rescale``: they shrink at each growth."""
        optimizer: Literal["keep", "reset"] = "keep"
        """Whether the optimizer keeps its state of old parameters."""

        def __post_init__(self) -> None:
            for name in ("every", "add"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1")
            if self.first is not None and (self.first < 1 or self.unit != "steps"):
                raise ValueError(f"first = {self.first} must be at least 1, with unit = 'steps'")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Widths must be known before the first growth, or be shrunk at each."""
            limit = lane.max_experts
            if self.reading == "rescale":
                allowed = "leave model.max_experts out: the present number of experts sets widths"
                return [Problem("reading", f"'rescale' with {limit}", allowed)] if limit else []
            if lane.experts is not None and lane.final_experts is None and limit is None:
                allowed = "growth by steps needs this, model.max_experts or training.steps"
                return [Problem("max_experts", "missing", allowed)]
            return []

    config: Config

    @property
    def first_stage(self) -> int:
        return self.config.every if self.config.unit == "stages" else 0

    def propose(self, view: View, memory: Json) -> Proposal:
        due = (memory or 0) + self._more(view)
        if not due or view.n >= view.stage.intervals:
            return (), due
        target = view.model.experts + due * self.config.add
        if self.config.max_experts is not None:
            target = min(target, self.config.max_experts)
        if target <= view.model.experts:
            return (), 0
        figures = {"stage": float(view.stage.index), "steps": float(view.steps)}
        edit = Grow(
            **view.edit(policy="periodic", trigger=self.config.unit, figures=figures),
            experts=target,
            initialiser=asdict(self.config.initialiser),
            reading=self.config.reading,
            optimizer=self.config.optimizer,
        )
        return (edit,), 0

    def _more(self, view: View) -> int:
        """Growths that have become due since the last decision."""
        every = self.config.every
        if self.config.unit == "stages":
            return int(view.n == 0 and view.stage.index > 0 and view.stage.index % every == 0)
        return self._passed(view.steps) - self._passed(view.steps_before)

    def _passed(self, steps: int) -> int:
        """Growths that are due after so many steps of the lane."""
        every, first = self.config.every, self.config.first or self.config.every
        return 0 if steps < first else (steps - first) // every + 1

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        if self.config.max_experts is not None:
            return max(start, self.config.max_experts)
        if self.config.unit == "stages":
            return start + self.config.add * ((stages - 1) // self.config.every)
        if steps_per_stage is None:
            return None
        # Nothing grows after the last decision that an interval follows.
        inside = steps_per_stage * (self.facts.intervals - 1) // self.facts.intervals
        last = (stages - 1) * steps_per_stage + inside
        return start + self.config.add * self._passed(last)

    def foreseeable(self, steps_per_stage: int | None) -> bool:
        return self.config.unit == "stages" or steps_per_stage is not None

    @property
    def keeps_widths(self) -> bool:
        return self.config.reading != "rescale"

    def bounded(self, experts: int | None) -> Config:
        own = self.config.max_experts
        return replace(self.config, max_experts=experts if own is None else own)
