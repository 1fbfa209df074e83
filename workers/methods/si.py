"""Synaptic intelligence: importance is what a parameter's way added to the fall of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import EditReport
from workers.methods.base import MethodContext
from workers.methods.penalty import QuadraticPenalty, check_finite
from workers.supervised.objectives import Objective
from workers.supervised.precision import precise

NONE = -1
"""No stage has begun."""


class SI(QuadraticPenalty):
    """Synaptic intelligence (Zenke, Poole and Ganguli, arXiv 1703.04200, equations 3 to 5).

    Over a task's steps ``omega_k = -sum g_k dtheta_k`` with the gradient of the task's loss alone;
    at its end ``Omega_k += max(0, omega_k) / (Delta_k^2 + damping)``, Delta_k being how far the
    parameter came in the task, and the anchor is where it ended. A parameter without gradient adds
    nothing in a step. ``strength / 2`` is the paper's c.

    A task's end is noticed at the first step of the next, so that no samples are needed and agents
    can be trained with it; there the gradient is that of one minibatch of the agent's loss.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(QuadraticPenalty.Config):
        """Strength and damping."""

        kind: str = "si"
        strength: float = 1000.0
        """Weight of the penalty."""
        damping: float = 0.1
        """xi: keeps importance finite where a parameter hardly moved; must be positive."""

        def __post_init__(self) -> None:
            QuadraticPenalty.Config.__post_init__(self)
            if not self.damping > 0.0:
                raise ValueError(f"damping must be positive, got {self.damping}")

    config: SI.Config
    works_with = frozenset({"supervised", "rl"})

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self._stage = NONE
        self._complete = False
        """Whether every parameter is known; new ones come with edits only."""
        self._step: list[tuple[nn.Parameter, Tensor, Tensor, Tensor]] = []
        """Inside a step: (parameter, its path, gradient of the task's loss, value before)."""

    @torch.no_grad()
    def after_backward(self, context: MethodContext) -> None:
        if context.stage.index != self._stage:
            self._consolidate(context)
        if not self._complete:
            self._begin(context)
        for _, parameter, known in self.known:
            if parameter.grad is not None:
                before = precise(context.optimizer, parameter).clone()
                gradient = parameter.grad.to(torch.float32, copy=True)
                self._step.append((parameter, known["path"], gradient, before))
        super().after_backward(context)

    @torch.no_grad()
    def after_step(self, context: MethodContext) -> None:
        for parameter, path, gradient, before in self._step:
            path.addcmul_(gradient, precise(context.optimizer, parameter) - before, value=-1)
        self._step = []

    def edited(self, context: MethodContext, report: EditReport) -> None:
        super().edited(context, report)
        self._complete = False

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "stage": torch.tensor(self._stage)}

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self._stage = int(state["stage"])
        super().load_state({n: value for n, value in state.items() if n != "stage"}, model)

    def _begin(self, context: MethodContext) -> None:
        """New parameters start their way."""
        for name, parameter in context.model.named_parameters():
            if name not in self.known:
                value = precise(context.optimizer, parameter).clone()
                zero = torch.zeros_like(value)
                known = {"importance": zero, "path": zero.clone(), "anchor": value}
                self.known.put(name, parameter, known)
        self._complete = True

    def _consolidate(self, context: MethodContext) -> None:
        """A stage begins: what the last one's path says becomes importance."""
        for _, parameter, known in self.known:
            value = precise(context.optimizer, parameter)
            check_finite(value, context, "parameters at its start")
            moved = value - known["anchor"]
            gained = known["path"].clamp_min(0.0) / (moved.square() + self.config.damping)
            known["importance"] += gained
            known["path"].zero_()
            known["anchor"].copy_(value)
        self._stage = context.stage.index
