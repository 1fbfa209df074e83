"""What a continual-learning method may change about training a stage.

Knows tensors, a model that can be called and its optimizer; nothing of streams and clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from workers.contract import EditReport, StageSpec, TaskSpec
from workers.edits import Change
from workers.moe.tallies import Total, own
from workers.streams import Part, TaskData
from workers.supervised.objectives import Objective

Batch = tuple[Tensor, Any]
"""(inputs float32 or int64 [B, ...], targets [B] or [B, ...], or targets of the method's own)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContext:
    """What a hook may look at and change, as it stands when the hook is called."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    """Trains ``model``; another one after an edit that narrows parameters or a fresh start."""
    stage: StageSpec
    data: TaskData | None
    """The stage's data; None where the model learns from an environment."""
    domains: tuple[str, ...]
    """Every domain of the stream, in order of appearance."""
    device: torch.device
    """Where the model is; batches of ``data`` are on the CPU."""
    objective: Objective | None
    """What scores outputs; None where the model learns from an environment."""
    seed: int
    """Of this stage, for generators of the method's own."""
    steps: int | None = None
    """Gradient steps of the stage in all; None where an environment decides it."""
    total: Total = own
    """Adds figures up over the workers that train the model; to be called alike on all. What a
    method saw of this worker's part of a batch becomes what one worker would have seen of it."""
    change: Change | None = None
    """What the edit did to parameters; only in ``edited``."""


class Method:
    """Plain training; a subclass overrides what it changes.

    The trainer calls ``training_data`` and ``begin_stage`` when a stage starts; for each gradient
    step ``extend_batch``, ``loss``, ``after_backward`` and ``after_step``; ``edited`` after each
    edit; ``end_stage`` once the last interval is trained, before the edits that are decided then.
    It stores ``state`` in checkpoints; evaluations load it where they ask for ``answer``. On a lane
    of several workers each has the whole method: hooks are called alike on all and must do the
    same on all.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the method; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    needs_past: ClassVar[bool] = False
    """Whether ``training_data`` is given the data of all earlier tasks."""
    mixes: ClassVar[bool] = False
    """Whether it adds samples to the task's own, so that nobody can tell a sample's domain."""
    plain_start: ClassVar[bool] = False
    """Whether it trains a stream's first stage as plain training does, whatever its settings, and
    learns from it in ``end_stage`` alone. Lanes of such methods share that stage: one of them
    trains it, the others are called with ``training_data`` and ``end_stage`` once it is learnt.
    Random draws in ``end_stage`` must then come from generators of the method's own. Not inherited:
    a subclass changes something, so it says this of itself."""
    starts_afresh: ClassVar[bool] = False
    """Whether each stage but the first forgets the model: it starts with one drawn anew, as the
    lane's settings make it, and with a fresh optimizer. What edits changed would be lost."""
    answers: ClassVar[bool] = False
    """Whether it says by itself, in ``answer``, what the lane answers in evaluations."""
    works_with: ClassVar[frozenset[str]] = frozenset({"supervised"})
    """Trainers that call every hook it overrides. One that overrides none but ``watch``,
    ``after_backward``, ``after_step`` and ``edited`` may add ``rl``."""

    @classmethod
    def starts_plainly(cls) -> bool:
        """Whether the class itself says ``plain_start``, and has no answers of its own."""
        return bool(vars(cls).get("plain_start", False)) and not cls.answers

    def __init__(self, config: Any, seed: int, objective: Objective | None = None) -> None:
        """``objective``: the stream's; None where the model learns from an environment."""
        self.config = config
        self.seed = seed
        self.objective = objective

    def watch(self, model: nn.Module) -> None:
        """Look at the model before it is used: hooks on its modules are set here.

        Called when a lane is opened or restored, after ``load_state``, and after each edit, before
        ``edited``: parts of it may be new or gone. Whatever an earlier call has set is to be taken
        off.
        """

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Part:
        """The samples to train the stage on.

        ``past`` is empty unless ``needs_past``, and where each task holds the data of all earlier
        ones (``Stream.cumulative``).
        """
        return current.train

    def begin_stage(self, context: MethodContext) -> dict[str, str]:
        """Look at the model before the stage's first step.

        Returns what lineage should tell about it. A stage taken up half-way does not begin again:
        what is set here must travel with the model, or in ``state``.
        """
        return {}

    def extend_batch(self, x: Tensor, y: Tensor) -> Batch:
        """The batch to take a gradient step on, before augmentation, on the device of ``x``.

        Nobody but ``loss`` looks into the targets: they may be more than ``y``, as anything that
        has a length and can be sliced, sample by sample, like a tensor.
        """
        return x, y

    def loss(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Any) -> Tensor:
        """What is minimised, a scalar; the trainer adds the model's auxiliary losses.

        A mean over the samples, which are a part of the batch where the lane has several workers
        or accumulates gradients; it is then asked for several times a step.
        """
        assert self.objective is not None, "a lane without an objective has no such loss"
        return self.objective.loss(model(x), y)

    def after_backward(self, context: MethodContext) -> None:
        """Change the gradients before they are clipped and followed (projection, penalties).

        They are those of the whole batch, alike on every worker; None where nothing was learnt.
        """

    def after_step(self, context: MethodContext) -> None:
        """Look at, or change, parameters and optimizer after a gradient step (unit resets)."""

    def edited(self, context: MethodContext, report: EditReport) -> None:
        """Follow an edit that has just changed the model."""

    def end_stage(self, context: MethodContext) -> None:
        """Learn from the stage that was just trained, e.g. remember samples of it."""

    def answer(self, model: nn.Module, x: Tensor, task: TaskSpec | None) -> Tensor:
        """Outputs to samples of one task, asked for where ``answers``, in evaluation mode.

        What it needs beside the model comes from ``state``. ``model`` is watched, so samples pass
        through it and not through a copy (``torch.func.functional_call`` with other weights).
        ``task``: which one; None where nobody tells it.
        """
        outputs: Tensor = model(x)
        return outputs

    def state(self) -> dict[str, Tensor]:
        """Copies of everything that must survive a restart, random generators included."""
        return {}

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        """Continue exactly where ``state`` was taken; ``model`` is restored already."""
        assert not state, f"{type(self).__name__} keeps no state but got {sorted(state)}"
