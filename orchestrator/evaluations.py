"""After which stages models are scored, and on which tasks: what the matrix R costs and holds.

Pure: what is scored follows from the lane's plan alone, so that a journal tells it. Whatever the
entry says, the first model and the last one are scored on every task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from workers.contract import derive_seed


class Evaluation(ABC):
    """Base of the entries of EVALUATIONS."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    def __init__(self, config: Any) -> None:
        self.config = config

    def columns(self, index: int, stages: int, ends: Sequence[int]) -> tuple[int, ...]:
        """Tasks, by their places, that the model after stage ``index`` is scored on, ascending.

        ``index``: -1 = the first model. ``stages``: of the lane. ``ends``: for each task the stage
        at whose end it was learnt.
        """
        if index in (-1, stages - 1):
            return tuple(range(len(ends)))
        return tuple(sorted(set(self.chosen(index, ends))))

    @abstractmethod
    def chosen(self, index: int, ends: Sequence[int]) -> Sequence[int]:
        """The same for a stage that is not the last."""


class All(Evaluation):
    """Every model on every task: R has no holes."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Evaluation.Config):
        """It has no settings."""

        kind: str = "all"

    def chosen(self, index: int, ends: Sequence[int]) -> Sequence[int]:
        return range(len(ends))


class Every(Evaluation):
    """The models after every so many stages, on every task."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Evaluation.Config):
        """Settings."""

        kind: str = "every"
        stages: int = 5
        """Stages from one evaluation to the next; at least 1."""

        def __post_init__(self) -> None:
            if self.stages < 1:
                raise ValueError(f"stages must be at least 1, got {self.stages}")

    config: Every.Config

    def chosen(self, index: int, ends: Sequence[int]) -> Sequence[int]:
        return () if (index + 1) % self.config.stages else range(len(ends))


class Window(Evaluation):
    """Every model on the tasks that were learnt last, and on those that come next."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Evaluation.Config):
        """Settings."""

        kind: str = "window"
        behind: int = 5
        """Stages whose tasks are scored, the one just learnt among them; at least 1."""
        ahead: int = 1
        """Stages to come whose tasks are scored, for transfer to them; at least 0."""

        def __post_init__(self) -> None:
            if self.behind < 1 or self.ahead < 0:
                raise ValueError(
                    f"behind must be at least 1 and ahead at least 0, got {self.behind} and "
                    f"{self.ahead}"
                )

    config: Window.Config

    def chosen(self, index: int, ends: Sequence[int]) -> Sequence[int]:
        first, last = index - self.config.behind + 1, index + self.config.ahead
        order = _by_end(tuple(ends))
        known = slice(bisect_left(order, (first, 0)), bisect_left(order, (last + 1, 0)))
        return [place for _, place in order[known]]


@lru_cache(maxsize=16)
def _by_end(ends: tuple[int, ...]) -> list[tuple[int, int]]:
    """(stage, place) of every task, stages ascending."""
    return sorted((end, place) for place, end in enumerate(ends))


class Sample(Evaluation):
    """Every model on the task just learnt and on some others, drawn anew for each stage."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Evaluation.Config):
        """Settings."""

        kind: str = "sample"
        tasks: int = 10
        """Others to score on at most; at least 0."""
        seed: int = 0
        """Of the draws: the same in every lane, so that lanes are scored alike."""

        def __post_init__(self) -> None:
            if self.tasks < 0:
                raise ValueError(f"tasks must be at least 0, got {self.tasks}")

    config: Sample.Config

    def chosen(self, index: int, ends: Sequence[int]) -> Sequence[int]:
        own = [place for place, end in enumerate(ends) if end == index]
        others = [place for place, end in enumerate(ends) if end != index]
        draws = Random(derive_seed(self.config.seed, "evaluation", index))
        return [*own, *draws.sample(others, min(self.config.tasks, len(others)))]


EVALUATIONS: dict[str, type] = {"all": All, "every": Every, "window": Window, "sample": Sample}
"""Evaluations by name."""
