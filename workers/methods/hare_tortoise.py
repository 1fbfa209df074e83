"""Hare and tortoise: fast weights that go back to a slow average of theirs from time to time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from workers.contract import EditReport, LaneSettings
from workers.methods.base import Method, MethodContext
from workers.methods.following import followed
from workers.supervised.objectives import Objective
from workers.tables import Problem


class HareTortoise(Method):
    """Average the parameters slowly, and put them back on their average every so many steps.

    Lee et al., Slow and steady wins the race (arXiv 2406.02596, section 4): after each step
    ``tortoise <- momentum * tortoise + (1 - momentum) * hare``; every ``every`` steps
    ``hare <- tortoise``. The hare is what is trained, scored and saved as the model; the optimizer
    goes on. A parameter's average begins at its value when it is born, and is kept in float32.
    Frozen parameters stay, and buffers are not averaged.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """How slow the average is, and how often the model goes back to it."""

        kind: str = "hare_tortoise"
        momentum: float = 0.999
        """Share of the average that is kept at a step, from 0 to below 1."""
        every: int = 1000
        """Gradient steps, counted over the whole lane, between two returns."""

        def __post_init__(self) -> None:
            if not 0 <= self.momentum < 1:
                raise ValueError(f"momentum must be from 0 to below 1, got {self.momentum}")
            if self.every < 1:
                raise ValueError(f"every must be at least 1, got {self.every}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Experts that a mask keeps from learning must not move."""
            if "refresh_mask" not in lane.proposes:
                return []
            allowed = "takes experts back that masks keep as they are: take one of the two out"
            return [Problem("kind", "policies of this lane mask experts", allowed)]

    config: HareTortoise.Config
    works_with: ClassVar[frozenset[str]] = frozenset({"supervised", "rl"})

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.tortoise: dict[str, Tensor] = {}
        """Average by parameter, float32."""
        self.steps = 0

    def watch(self, model: nn.Module) -> None:
        if not self.tortoise:
            self.tortoise = followed({}, model, None, _value)

    @torch.no_grad()
    def after_step(self, context: MethodContext) -> None:
        self.steps += 1
        named = dict(context.model.named_parameters())
        hare = [named[name].float() for name in self.tortoise]
        slow = list(self.tortoise.values())
        torch._foreach_lerp_(slow, hare, 1.0 - self.config.momentum)
        if self.steps % self.config.every == 0:
            for name, value in self.tortoise.items():
                if named[name].requires_grad:
                    named[name].copy_(value)

    def edited(self, context: MethodContext, report: EditReport) -> None:
        self.tortoise = followed(self.tortoise, context.model, context.change, _value)

    def state(self) -> dict[str, Tensor]:
        kept = {f"tortoise/{name}": value.clone() for name, value in self.tortoise.items()}
        return {"steps": torch.tensor(self.steps)} | kept

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        known = dict(model.named_parameters())
        self.steps = int(state["steps"])
        self.tortoise = {
            name: state[f"tortoise/{name}"].to(known[name].device, copy=True) for name in known
        }


def _value(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().float().clone()
