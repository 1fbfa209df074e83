"""What a continual-learning method may change about training a stage.

Knows tensors and a model that can be called; nothing of streams' tasks, optimizers and clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from workers.streams import TaskData

Batch = tuple[Tensor, Tensor]
"""(inputs float32 [B, C, H, W], labels int64 [B])."""


class Method:
    """Plain training; a subclass overrides what it changes.

    The trainer calls ``training_data`` when a stage starts, ``extend_batch`` and ``loss`` for each
    gradient step, ``end_stage`` once after the last one, and stores ``state`` in checkpoints.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the method; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    needs_past: bool = False
    """Whether ``training_data`` is given the data of all earlier tasks."""

    def __init__(self, config: Any, seed: int) -> None:
        self.config = config
        self.seed = seed

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Batch:
        """(x, y) to train the stage on; ``past`` is empty unless ``needs_past``."""
        return current.train_x, current.train_y

    def extend_batch(self, x: Tensor, y: Tensor) -> Batch:
        """The batch to take a gradient step on, on the device of ``x``."""
        return x, y

    def loss(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy, plus ``model.auxiliary_loss()`` where there is one; a scalar."""
        loss = functional.cross_entropy(model(x), y)
        auxiliary = getattr(model, "auxiliary_loss", _none)()
        return loss if auxiliary is None else loss + auxiliary

    def end_stage(self, current: TaskData) -> None:
        """Learn from the task that was just trained on, e.g. remember samples of it."""

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that must survive a restart, random generators included."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where ``state`` was taken."""
        assert not state, f"{type(self).__name__} keeps no state but got {sorted(state)}"


def _none() -> None:
    return None
