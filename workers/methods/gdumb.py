"""GDumb: at each stage a model trained from scratch on a memory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import LaneSettings, derive_seed
from workers.methods.base import Method, MethodContext
from workers.methods.buffers import BUFFERS
from workers.methods.memory import Memory, buffer_problems, classes_of, rows_of
from workers.streams import Part, TaskData
from workers.supervised.objectives import Objective
from workers.tables import Problem, choice


class GDumb(Method):
    """Forgets the model and trains it anew on its memory alone (GDumb, arXiv 2010.02506).

    Algorithm 1: the task's training samples are offered to the memory once, in their order, when
    the stage starts; then the learner (algorithm 2) trains on nothing but the memory, for the
    stage's epochs or steps, from a fresh initialisation. Evaluations score that learner. Its recipe
    is ``[training]``: the paper anneals the learning rate by a cosine and mixes samples (CutMix),
    here ``learning_rate`` and ``augment``.

    The paper's memory, ``storage = "greedy"``, is for tasks of new classes: it makes room for
    classes that it holds too few samples of, so that where all classes come in every task it never
    changes after the first. Such streams want ``class_balanced``, ``task_balanced`` or
    ``reservoir``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Settings of the memory."""

        kind: str = "gdumb"
        buffer: int = 500
        """Samples remembered over the whole stream."""
        storage: Any = choice(BUFFERS, "greedy")
        """Which samples are remembered."""

        def __post_init__(self) -> None:
            if self.buffer < 1:
                raise ValueError("buffer must be at least 1")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """A buffer that is balanced over classes needs some."""
            return buffer_problems(lane, self.storage)

    config: GDumb.Config
    mixes = starts_afresh = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.memory = self._empty()
        """As it was before the stage: a stage that is taken up offers its samples again."""
        self.stages = 0
        """Stages that have ended: the number that the stage's samples are offered under."""
        self._filled = self.memory

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Part:
        train, filled = current.train, self._empty()
        filled.load_state(self.memory.state())
        filled.offer(classes_of(self.objective, train.y), self.stages, rows_of(train))
        self._filled = filled
        return Part(filled.columns["x"], filled.columns["y"])

    def end_stage(self, context: MethodContext) -> None:
        self.memory, self.stages = self._filled, self.stages + 1

    def state(self) -> dict[str, Tensor]:
        return {**self.memory.state(), "stages": torch.tensor(self.stages)}

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        remembered = dict(state)
        self.stages = int(remembered.pop("stages"))
        self.memory.load_state(remembered)

    def _empty(self) -> Memory:
        return Memory(self.config.storage, self.config.buffer, derive_seed(self.seed, "memory"))
