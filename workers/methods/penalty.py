"""The quadratic penalty that methods of regularisation share: importance and anchor of parameters.

Knows nothing of where importance comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import EditReport, InputError
from workers.methods.base import Method, MethodContext
from workers.methods.parameters import PerParameter
from workers.supervised.objectives import Objective
from workers.supervised.precision import precise


def check_finite(values: Tensor, context: MethodContext, what: str) -> None:
    """Raise InputError where the model diverged under a penalty; ``what`` the values are."""
    if not values.isfinite().all():
        raise InputError(
            f"task {context.stage.task.name!r}: {what} are not finite, the model has diverged; "
            "lower method.strength or the learning rate: their product with the importance of a "
            "parameter must stay below 2 for plain gradient steps"
        )


class QuadraticPenalty(Method):
    """Base: the task's loss plus ``strength / 2 * sum_k importance_k (theta_k - anchor_k)^2``.

    Its gradient, ``strength * importance_k (theta_k - anchor_k)``, joins that of the whole batch
    before clipping, so that it is the same for any number of workers and parts. The equation pulls
    every parameter at every step; here a parameter that has no gradient in a step (frozen by a
    phase, or of an expert that no token chose or may teach) is not pulled either and keeps its
    bits: the pull comes with the next step in which it learns. The reported loss is the task's.

    Experts born later begin without importance; what is known of those that were narrowed is cut
    like their weights, and the anchor goes along with what the edit itself moved.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """How strong the penalty is."""

        strength: float
        """Weight of the penalty (lambda); must be positive. Plain gradient steps follow it only
        while ``learning rate * strength * importance`` stays below 2."""

        def __post_init__(self) -> None:
            if not self.strength > 0.0:
                raise ValueError(f"strength must be positive, got {self.strength}")

    config: Any

    def __init__(self, config: Any, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.known = PerParameter()
        """``importance`` (not negative) and ``anchor``, float32, of each penalised parameter."""

    @torch.no_grad()
    def after_backward(self, context: MethodContext) -> None:
        for _, parameter, known in self.known:
            if parameter.grad is not None:
                away = precise(context.optimizer, parameter) - known["anchor"]
                parameter.grad.add_(known["importance"] * away, alpha=self.config.strength)

    @torch.no_grad()
    def edited(self, context: MethodContext, report: EditReport) -> None:
        change = context.change
        assert change is not None, "told after an edit"
        self.known.follow(context.model, change)
        for name, parameter, known in self.known:
            anchor, value = known["anchor"], precise(context.optimizer, parameter)
            if name in change.narrowed:
                old, dim, kept = change.narrowed[name]
                anchor += value - old.float().index_select(dim, kept)
            if name in change.cleared:
                entries = change.cleared[name]
                if entries is None:
                    anchor.copy_(value)
                for dim, index in entries or ():
                    at = index.to(value.device)
                    anchor.index_copy_(dim, at, value.index_select(dim, at))

    def state(self) -> dict[str, Tensor]:
        return self.known.state()

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self.known.load(state, model)
