"""GDumb: a greedily balanced memory, and at each stage a model trained from scratch on it alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from workers.contract import LaneSettings, derive_seed
from workers.methods.base import Method, MethodContext
from workers.methods.buffers import Greedy
from workers.methods.memory import Memory, classes_of, needs_classes, rows_of
from workers.streams import Part, TaskData
from workers.supervised.objectives import Objective
from workers.tables import Problem


class GDumb(Method):
    """Forgets the model and trains it anew on a greedily balanced memory (arXiv 2010.02506).

    Algorithm 1: the task's training samples are offered to the memory once, in their order, when
    the stage starts; then the learner (algorithm 2) trains on nothing but the memory, for the
    stage's epochs or steps, from a fresh initialisation. Evaluations score that learner. Its recipe
    is ``[training]``: the paper anneals the learning rate by a cosine and mixes samples (CutMix),
    here ``learning_rate`` and ``augment``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """Settings of the memory."""

        kind: str = "gdumb"
        buffer: int = 500
        """Samples remembered over the whole stream."""

        def __post_init__(self) -> None:
            if self.buffer < 1:
                raise ValueError("buffer must be at least 1")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """The memory is balanced over classes."""
            return needs_classes(lane, "kind", f"method {self.kind!r}")

    config: GDumb.Config
    mixes = starts_afresh = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.memory = self._empty()
        """As it was before the stage: a stage that is taken up offers its samples again."""
        self._filled = self.memory

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Part:
        train, filled = current.train, self._empty()
        filled.load_state(self.memory.state())
        filled.offer(classes_of(self.objective, train.y), 0, rows_of(train))
        self._filled = filled
        return Part(filled.columns["x"], filled.columns["y"])

    def end_stage(self, context: MethodContext) -> None:
        self.memory = self._filled

    def state(self) -> dict[str, Tensor]:
        return self.memory.state()

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self.memory.load_state(state)

    def _empty(self) -> Memory:
        return Memory(Greedy.Config(), self.config.buffer, derive_seed(self.seed, "memory"))
