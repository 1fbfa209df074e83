"""Growth policies: when experts are added, how many, and how they are initialised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from workers.contract import (
    Cause,
    Edit,
    Grow,
    IntervalReport,
    RefreshMask,
    SetPhase,
    StageSpec,
    derive_seed,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a policy may look at: where a lane stands after interval ``n`` (0 = stage start)."""

    stage: StageSpec
    stages: int
    n: int
    steps: int
    """Steps since the lane began."""
    steps_before: int
    """The same at the previous decision."""
    experts: int
    """Experts of each growable layer now."""
    edits: int
    """Edits already decided in this stage."""
    report: IntervalReport | None
    """The interval just finished, with its usage and signals; None at the stage's start."""
    mask: RefreshMask | None = None
    """The last mask that was decided, with the usage it was made from."""
    phase: SetPhase | None = None
    """The last phase that was decided."""
    counts: Mapping[str, Mapping[str, list[int]]] = field(default_factory=dict)
    """Layer -> domain -> tokens that chose each expert since the last mask."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Domain -> tokens trained on since the last mask."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """Layer -> its live experts, before the edits of this decision."""
    grows: bool = False
    """Whether this decision adds experts."""

    def after(self, edit: Edit) -> Progress:
        """What the next policy of the same decision sees."""
        edits = self.edits + 1
        match edit:
            case Grow():
                return replace(self, edits=edits, experts=edit.experts, grows=True)
            case RefreshMask():
                return replace(self, edits=edits, mask=edit, counts={}, tokens={})
            case SetPhase():
                return replace(self, edits=edits, phase=edit)


class GrowthPolicy(Protocol):
    """Decides growth from progress; signals arrive with the interval report."""

    def propose(self, progress: Progress) -> tuple[Grow, ...]: ...

    def final_experts(self, start: int, stages: int) -> int | None:
        """Experts at the end of the stream, or None where it cannot be known beforehand."""
        ...


class NoGrowth:
    """The model keeps the shape it starts with."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "none"

    def __init__(self, config: Config) -> None:
        self.config = config

    def propose(self, progress: Progress) -> tuple[Grow, ...]:
        return ()

    def final_experts(self, start: int, stages: int) -> int | None:
        return start


class Periodic:
    """Adds experts every so many stages or steps, as DynamicMoE (arXiv 2511.18987) does."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str = "periodic"
        every: int = 1
        """Stages or steps between two growths."""
        unit: Literal["stages", "steps"] = "stages"
        """``stages``: at the start of a stage, before its data are seen; ``steps``: at the first
        interval end past each multiple."""
        add: int = 1
        """Experts added at each growth (granularity g)."""
        max_experts: int | None = None
        """No growth beyond this many; None = the model's max_experts."""
        initialiser: str = "random"
        reading: Literal["unmask", "rescale"] = "unmask"
        optimizer: Literal["keep", "reset"] = "keep"

        def __post_init__(self) -> None:
            for name in ("every", "add"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1")

    def __init__(self, config: Config) -> None:
        self.config = config

    def propose(self, progress: Progress) -> tuple[Grow, ...]:
        config = self.config
        target = progress.experts + config.add
        if config.max_experts is not None:
            target = min(target, config.max_experts)
        if target <= progress.experts or not self._due(progress):
            return ()
        figures = {"stage": float(progress.stage.index), "steps": float(progress.steps)}
        number = progress.edits
        return (
            Grow(
                id=f"{progress.stage.id}-{number}",
                stage=progress.stage.id,
                after_interval=progress.n,
                experts=target,
                seed=derive_seed(progress.stage.seed, progress.stage.id, "edit", number),
                initialiser=config.initialiser,
                reading=config.reading,
                optimizer=config.optimizer,
                cause=Cause(policy="periodic", trigger=config.unit, figures=figures),
            ),
        )

    def _due(self, progress: Progress) -> bool:
        every = self.config.every
        if self.config.unit == "stages":
            return (
                progress.n == 0 and progress.stage.index > 0 and progress.stage.index % every == 0
            )
        return progress.n > 0 and progress.steps // every > progress.steps_before // every

    def final_experts(self, start: int, stages: int) -> int | None:
        if self.config.max_experts is not None:
            return max(start, self.config.max_experts)
        if self.config.unit == "steps":
            return None
        return start + self.config.add * ((stages - 1) // self.config.every)
