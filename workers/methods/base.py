"""What a continual-learning method may change about training a stage.

Knows tensors and a model that can be called; nothing of streams' tasks, optimizers and clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import EditReport, StageSpec
from workers.streams import TaskData

Batch = tuple[Tensor, Tensor]
"""(inputs float32 [B, C, H, W], labels int64 [B])."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContext:
    """What a hook of a method may look at and change, as it stands when the hook is called."""

    model: Any
    optimizer: torch.optim.Optimizer
    stage: StageSpec
    data: TaskData | None
    """The stage's data; None where the model learns from an environment."""
    domains: tuple[str, ...]
    """Every domain of the stream, in order of appearance."""
    device: torch.device
    objective: Any
    """What scores outputs; None where the model learns from an environment."""
    seed: int


class Method:
    """Plain training; a subclass overrides what it changes.

    The trainer calls ``training_data`` and ``begin_stage`` when a stage starts, ``extend_batch``
    and ``loss`` for each gradient step, ``end_stage`` once after the last one, and stores
    ``state`` in checkpoints.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the method; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    needs_past: bool = False
    """Whether ``training_data`` is given the data of all earlier tasks."""
    mixes: bool = False
    """Whether it adds samples to the task's own, so that nobody can tell a sample's domain."""
    specialises: bool = False
    """Whether it masks experts itself, so that domains matter even where there is but one."""

    works_with: ClassVar[frozenset[str]] = frozenset({"supervised"})
    """Trainers that call every hook it overrides. One that overrides no other hooks than
    ``after_backward``, ``after_step`` and ``edited`` also works with "rl"."""

    def __init__(self, config: Any, seed: int) -> None:
        self.config = config
        self.seed = seed

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Batch:
        """(x, y) to train the stage on; ``past`` is empty unless ``needs_past``."""
        return current.train_x, current.train_y

    def begin_stage(
        self, model: nn.Module, stage: StageSpec, current: TaskData, domains: tuple[str, ...]
    ) -> dict[str, str]:
        """Look at the model before the stage's first step; ``domains`` = all of the stream's.

        Returns what lineage should tell about it. A stage taken up half-way does not begin again:
        what is set here must travel with the model.
        """
        return {}

    def extend_batch(self, x: Tensor, y: Tensor) -> Batch:
        """The batch to take a gradient step on, on the device of ``x``; alike on every worker."""
        return x, y

    def loss(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy, plus ``model.auxiliary_losses()`` where there are any; a scalar.

        A mean over the samples, which are a part of the batch where the lane has several workers.
        """
        loss = functional.cross_entropy(model(x), y)
        auxiliary = list(getattr(model, "auxiliary_losses", dict)().values())
        return loss + torch.stack(auxiliary).sum() if auxiliary else loss

    def end_stage(self, current: TaskData) -> None:
        """Learn from the task that was just trained on, e.g. remember samples of it."""

    def after_backward(self, context: MethodContext) -> None:
        """Change the gradients of a step before they are followed (projection, penalties)."""

    def after_step(self, context: MethodContext) -> None:
        """Look at, or change, the parameters after a gradient step (resets of units)."""

    def edited(self, context: MethodContext, report: EditReport) -> None:
        """Follow an edit that has just changed the model."""

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that must survive a restart, random generators included."""
        return {}

    def load_state(self, state: Mapping[str, Tensor], model: object = None) -> None:
        """Continue exactly where ``state`` was taken."""
        assert not state, f"{type(self).__name__} keeps no state but got {sorted(state)}"
