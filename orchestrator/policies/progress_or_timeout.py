"""Growth by progress: once enough tasks are solved since the last one, or too much time passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from orchestrator.policies.base import Policy, Proposal, View
from workers.contract import Json, LaneSettings
from workers.edits import Grow
from workers.tables import Problem, choice


def _initialisers() -> Mapping[str, type]:
    from workers.moe import INITIALISERS

    return INITIALISERS


class ProgressOrTimeout(Policy):
    """Grows when solved tasks since the last growth >= unsolved / growths left, or after a time.

    Dynamic parameter scaling of ScaleZero (arXiv 2509.07945): capacity comes in a given number of
    portions, and each is to be followed by its share of the unsolved tasks; the time limit adds one
    where progress stands still, and the first portion comes after a minimum of training.

    A task is solved where the last checkpoint's validation score on it, or the level of the present
    task in any interval of this stage (``train_score``, in RL lanes ``return_share``), is at least
    ``solved``. A task that was forgotten is unsolved again; one that counted for a growth counts
    for none later. Nothing grows by progress where no task is unsolved, and nothing in a stage's
    last interval, which nothing would follow: the next stage's start asks again.
    """

    uses_scores: ClassVar[bool] = True
    proposes: ClassVar[tuple[str, ...]] = ("grow",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """How many portions, when, and what new experts start from."""

        kind: str = "progress_or_timeout"
        growths: int = 3
        """Growths in all, at most."""
        add: int = 1
        """Experts added at each."""
        solved: float = 0.9
        """Score from which a task is solved, above 0 and at most 1."""
        max_intervals: int = 8
        """Intervals since the last growth, over stages, after which the next is made anyway."""
        first_intervals: int | None = None
        """Intervals before the first growth, at least; None = those of one stage."""
        initialiser: Any = choice(_initialisers, "random")
        """What a new expert and its router row start from: a name, or a table with settings."""
        optimizer: Literal["keep", "reset"] = "keep"
        """Whether the optimizer keeps its state of old parameters."""

        def __post_init__(self) -> None:
            for name in ("growths", "add", "max_intervals"):
                if getattr(self, name) < 1:
                    raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if not 0.0 < self.solved <= 1.0:
                raise ValueError(f"solved must be above 0 and at most 1, got {self.solved}")
            if self.first_intervals is not None and self.first_intervals < 1:
                raise ValueError(f"first_intervals must be at least 1, got {self.first_intervals}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """There must be room for a growth."""
            whole = len(lane.tasks) * lane.intervals
            first = self.first_intervals or lane.intervals
            if first < whole:
                return []
            found = f"{first}, and the lane has {whole} intervals"
            allowed = "must be below, or nothing ever grows: give fewer, or a longer stream"
            return [Problem("first_intervals", found, allowed)]

    config: Config

    @property
    def _first(self) -> int:
        return self.config.first_intervals or self.facts.intervals

    @property
    def first_stage(self) -> int:
        return self._first // self.facts.intervals

    def propose(self, view: View, memory: Json) -> Proposal:
        """Remembers (growths made, interval of the lane at the last one, tasks solved then)."""
        told = memory or {"growths": 0, "at": 0, "solved": []}
        now = view.stage.index * self.facts.intervals + view.n
        left = self.config.growths - told["growths"]
        if left < 1 or view.n >= view.stage.intervals or now < self._first or now == told["at"]:
            return (), told
        solved = self._solved(view)
        fresh = len(solved - set(told["solved"]))
        unsolved = len(self.facts.tasks) - len(solved)
        waited = now - told["at"]
        if unsolved and fresh and fresh * left >= unsolved:
            trigger = "progress"
        elif waited >= self.config.max_intervals:
            trigger = "timeout"
        else:
            return (), told
        figures = {"solved": fresh, "unsolved": unsolved, "left": left, "intervals": waited}
        edit = Grow(
            **view.edit(
                policy="progress_or_timeout",
                trigger=trigger,
                figures={name: float(value) for name, value in figures.items()},
            ),
            experts=view.model.experts + self.config.add,
            initialiser=asdict(self.config.initialiser),
            optimizer=self.config.optimizer,
        )
        counted = sorted(solved | set(told["solved"]))
        return (edit,), {"growths": told["growths"] + 1, "at": now, "solved": counted}

    def _solved(self, view: View) -> set[int]:
        """Places of the tasks that are solved now."""
        level = self.config.solved
        row = view.rows.get(view.stage.index - 1, ())
        solved = {place for place, score in enumerate(row) if score >= level}
        levels = [report.level for report in view.reports if report.level is not None]
        if levels and max(levels) >= level:
            solved.add(view.stage.task.index)
        return solved

    def final_experts(self, start: int, stages: int, steps_per_stage: int | None) -> int | None:
        room = max(0, stages * self.facts.intervals - self._first)
        return start + self.config.add * min(self.config.growths, room)
