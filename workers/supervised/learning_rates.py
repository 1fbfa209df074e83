"""Learning rates by name: the course of the rate over a stage, or over the whole stream.

A course is a pure function of (step, steps) and is stored nowhere: a lane that is taken up again
asks for the same rates. Knows no optimizer but the groups whose rate it sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from workers.contract import LaneSettings
from workers.tables import Problem, construct


class LearningRate:
    """Base: what share of the optimizer's rate is taken, once the warm-up is over."""

    level: ClassVar[bool] = False
    """Whether the share is 1 throughout."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a course; ``kind`` is its name in the table or ``module:Class``."""

        kind: str
        over: Literal["stage", "stream"] = "stage"
        """What the course, warm-up included, is run through: each stage anew (re-warming and
        re-decaying, arXiv 2403.08763) or the stream once, which needs ``training.steps``."""

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """A course over the stream needs the steps of all stages beforehand."""
            if self.over == "stage" or lane.sections["training"].steps_per_stage is not None:
                return []
            allowed = (
                "a course over the stream needs the steps of all stages beforehand: give "
                "training.steps instead of epochs, or over = 'stage'"
            )
            return [Problem("over", "got 'stream' with stages as long as their data", allowed)]

    def __init__(self, config: Any) -> None:
        self.config = config

    def share(self, progress: float) -> float:
        """Share of the rate at ``progress``, 0 (warm-up just over) to less than 1 (the end)."""
        raise NotImplementedError


class Constant(LearningRate):
    """The optimizer's own rate throughout."""

    level = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LearningRate.Config):
        """There is nothing more to set."""

        kind: str = "constant"

    def share(self, progress: float) -> float:
        return 1.0


class Cosine(LearningRate):
    """Half a cosine from the full rate to a share of it.

    Loshchilov and Hutter, arXiv 1608.03983, equation 5, without restarts inside.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LearningRate.Config):
        """Where it ends."""

        kind: str = "cosine"
        final: float = 0.1
        """Share of the rate that it ends with, 0 to 1."""

        def __post_init__(self) -> None:
            _share("final", self.final)

    def share(self, progress: float) -> float:
        final: float = self.config.final
        return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


class WarmupStableDecay(LearningRate):
    """Warm-up, stable, decay: the full rate after the warm-up, then a fall at the end.

    Hu et al., arXiv 2404.06395; the falls are those of Haegele et al., arXiv 2405.18392.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(LearningRate.Config):
        """When the rate falls, how and how far."""

        kind: str = "wsd"
        decay: float = 0.2
        """Share of what follows the warm-up over which the rate falls, above 0 and at most 1."""
        final: float = 0.0
        """Share of the rate that it ends with, 0 to 1."""
        shape: Literal["linear", "sqrt"] = "linear"
        """``linear``: 1 - t; ``sqrt``: 1 - sqrt(t), which falls fast at first."""

        def __post_init__(self) -> None:
            _share("final", self.final)
            if not 0.0 < self.decay <= 1.0:
                raise ValueError(f"decay must be above 0 and at most 1, got {self.decay}")

    def share(self, progress: float) -> float:
        config = self.config
        fallen = max(0.0, (progress - (1.0 - config.decay)) / config.decay)
        fallen = math.sqrt(fallen) if config.shape == "sqrt" else fallen
        return float(1.0 - (1.0 - config.final) * fallen)


LEARNING_RATES: dict[str, type] = {
    "constant": Constant,
    "cosine": Cosine,
    "wsd": WarmupStableDecay,
}
"""Courses of the learning rate by name."""


class Course:
    """The learning rate of every step of a lane: linear warm-up, then what the config names."""

    def __init__(self, training: Any, stages: int) -> None:
        """``training``: the Config of ``[training]``; ``stages``: of the whole stream."""
        self._rate: LearningRate = construct(LEARNING_RATES, training.learning_rate)
        self._whole = training.learning_rate.over == "stream"
        self._warmup: float = training.warmup
        self._stages = stages
        self.moves = bool(self._warmup) or not self._rate.level
        """Whether the rate is ever another than the optimizer's own."""

    def share(self, stage: int, step: int, steps: int) -> float:
        """Share of the rate at a stage's ``step`` (from 0) of ``steps``.

        Over the stream every stage has as many steps as this one.
        """
        if self._whole:
            step, steps = stage * steps + step, self._stages * steps
        warm = int(self._warmup * steps)
        if step < warm:
            return (step + 1) / warm
        return self._rate.share((step - warm) / (steps - warm))

    def set(self, optimizer: torch.optim.Optimizer, stage: int, step: int, steps: int) -> None:
        """Give each group its share of the rate it was made with."""
        if not self.moves:
            return
        share = self.share(stage, step, steps)
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * share


def _share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}")
