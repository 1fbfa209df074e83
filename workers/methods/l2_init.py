"""L2 towards the initial parameters (regenerative regularisation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from workers.contract import EditReport
from workers.methods.base import Method, MethodContext
from workers.methods.following import followed
from workers.supervised.objectives import Objective


class L2Init(Method):
    """Pull every parameter towards its initial value: ``strength * |w - w_0|^2`` (L2 Init).

    Kumar, Marklund and Van Roy, Maintaining plasticity in continual learning via regenerative
    regularization, arXiv 2308.11958, equation 1, summed over all tensors. Its gradient
    ``2 strength (w - w_0)`` is added to that of the task, before clipping; the loss that is
    reported leaves it out. ``w_0`` of a parameter is its value when it was born: as the lane
    begins, or of an expert that growth adds what it starts from. One that learnt nothing in a
    step is not pulled either.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """How strong the pull is."""

        kind: str = "l2_init"
        strength: float = 1e-3
        """Weight of the squared distance (lambda), at least 0."""

        def __post_init__(self) -> None:
            if self.strength < 0:
                raise ValueError(f"strength must not be negative, got {self.strength}")

    config: L2Init.Config
    works_with: ClassVar[frozenset[str]] = frozenset({"supervised", "rl"})

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.start: dict[str, Tensor] = {}
        """w_0 by parameter."""

    def watch(self, model: nn.Module) -> None:
        if not self.start:
            self.start = followed({}, model, None, _value)

    @torch.no_grad()
    def after_backward(self, context: MethodContext) -> None:
        learnt = [(n, p) for n, p in context.model.named_parameters() if p.grad is not None]
        if not learnt:
            return
        away = torch._foreach_sub([p for _, p in learnt], [self.start[n] for n, _ in learnt])
        gradients = [p.grad for _, p in learnt if p.grad is not None]
        torch._foreach_add_(gradients, away, alpha=2.0 * self.config.strength)

    def edited(self, context: MethodContext, report: EditReport) -> None:
        self.start = followed(self.start, context.model, context.change, _value)

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.start.items()}

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        known = dict(model.named_parameters())
        self.start = {name: value.to(known[name], copy=True) for name, value in state.items()}


def _value(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().clone()
