"""The contract of inference policies: how a trained model answers, its parameters left alone.

A policy knows no lane and no trainer: it is handed a model as a ``Subject``, and asked for answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from workers.contract import InputError, TaskSpec
from workers.diagnostics import Gates

Forward = Callable[[Tensor], Tensor]
"""Inputs [B, ...] -> the model's outputs [B, ...], as often as a policy likes."""

Kind = Literal["labels", "tokens", "acts"]
"""What a model answers for: samples, windows of tokens, or the steps of episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A trained model, and what may be looked at before it is asked."""

    model: nn.Module
    """In evaluation mode; not to be changed."""
    kind: Kind
    logits: bool
    """Whether outputs are logits over their last dimension; else they are values."""
    layers: Mapping[str, Any]
    """Routed layers (``workers.moe.layers.moe.MoELayer``) with at least two experts by name, first
    layer first; never empty."""
    tasks: tuple[TaskSpec, ...]
    """The tasks that are evaluated."""
    seed: int
    gates: Callable[[], Mapping[str, Mapping[str, Gates]]]
    """Task -> layer -> what the model does with the task's validation part. Raises InputError where
    a task has none."""
    references: Callable[[int], tuple[Tensor, Tensor, Tensor]] | None
    """So many training samples of each task, drawn by seed, with their targets and their domains as
    places among the stream's (int64 [N], for ``workers.moe.stepping.telling``); None in lanes that
    act."""
    right: Callable[[Tensor, Tensor], Tensor] | None
    """Outputs [B, ...], targets -> whether each answer is right, bool [B], [B, S] for windows; None
    in lanes that act."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One step of N environments, after it was taken; what a policy may learn from."""

    value: Forward
    """Observations [N, ...] -> the model's values of them [N], rewards' units."""
    bootstrap: Forward
    """The same of the observations after the step."""
    before: Tensor
    """Observations that were answered."""
    after: Tensor
    """Observations since."""
    rewards: Tensor
    """Float [N]."""
    over: Tensor
    """Whether the episode ended with the step, bool [N]."""
    discount: float


class InferencePolicy:
    """Base: changes how a model answers, inside ``answer`` only.

    Called in this order: ``prepare`` once, ``begin`` before each part or set of episodes,
    ``answer`` for each batch or step, ``learn`` after each step of an agent. Where ``choices`` are
    offered, one is chosen by the score on validation parts before test parts are touched.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the policy; ``kind`` is its name in the table or ``module:Class``."""

        kind: str

    works_with: ClassVar[frozenset[str]] = frozenset({"labels", "tokens", "acts"})
    """Kinds of subjects that it can answer for."""
    needs_logits: ClassVar[bool] = False
    """Whether outputs must be logits."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self, subject: Subject) -> None:
        """Raise InputError where it cannot answer for this subject."""
        if subject.kind not in self.works_with:
            raise InputError(
                f"policy {self.config.kind!r} answers for {', '.join(sorted(self.works_with))}, "
                f"and the lane's model for {subject.kind!r}; take another policy or lane"
            )
        if self.needs_logits and not subject.logits:
            raise InputError(
                f"policy {self.config.kind!r} needs outputs that are logits, and the lane's are "
                "values; take a lane that classifies, models language or acts"
            )

    def prepare(self, subject: Subject) -> None:
        """Get to know the model; keep what later calls need.

        Raises InputError where a setting names what the model does not have.
        """
        self.subject = subject

    @property
    def choices(self) -> Sequence[int]:
        """What validation chooses among; empty = nothing to choose."""
        return ()

    @property
    def by_task(self) -> bool:
        """Whether each task gets a choice of its own, which whoever asks must then know."""
        return False

    def choose(self, choice: int) -> None:
        """Answer by this choice from now on."""
        raise NotImplementedError

    def begin(self, rows: int) -> None:
        """A part begins, or ``rows`` episodes at once; what was learnt from others is forgotten."""

    def answer(self, forward: Forward, x: Tensor) -> Tensor:
        """Outputs [B, ...] to inputs [B, ...].

        In lanes that act ``x`` is one step of all environments, and what a model with memory
        carries to the next step is what the first ``forward`` inside an answer gave.
        """
        raise NotImplementedError

    def learn(self, turn: Turn) -> None:
        """Look at what came of the last answer; lanes that act only."""

    def figures(self) -> dict[str, float]:
        """What it tells about itself after ``prepare`` and answers, by name."""
        return {}


def log_probabilities(logits: Tensor) -> Tensor:
    """Log softmax over the last dimension, float32 at least."""
    return torch.log_softmax(logits.float() if logits.dtype != torch.float64 else logits, -1)
