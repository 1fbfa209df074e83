"""Dark experience replay: remembered outputs are kept, and remembered labels too (DER++)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.methods.base import MethodContext
from workers.methods.memory import Columns
from workers.methods.online import Online, Targets, joined, weights
from workers.tables import Problem


class Der(Online):
    """Replay of the outputs that samples had when they were stored (DER, arXiv 2004.07211).

    ``L = loss(incoming) + alpha * mean((z' - h(x'))^2) + beta * loss(x'', y'')`` (equations 5 and
    6): (x', z') and (x'', y'') are two draws from the buffer, z the model's outputs [C] when the
    sample was offered, before that step changed it; ``loss`` is that of the stream's objective. The
    square is a mean over samples and outputs, as in the authors' code, where the equation has a sum
    over outputs. With ``beta = 0`` there is no second draw. Outputs are stored as the model gives
    them in evaluation mode to inputs that are not augmented: the same on every worker, and other
    than those that were trained on where there is dropout, batch norm or augmentation. Where tasks
    are known, the outputs for labels of the sample's task are compared alone.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Online.Config):
        """Settings of the buffer and the weights of what is replayed."""

        kind: str = "der"
        alpha: float = 0.5
        """Weight of remembered outputs."""
        beta: float = 0.0
        """Weight of remembered targets."""

        def __post_init__(self) -> None:
            Online.Config.__post_init__(self)
            for name in ("alpha", "beta"):
                if getattr(self, name) < 0:
                    raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Outputs of every token are too many to remember."""
            found = Online.Config.problems(self, lane)
            if lane.tokens:
                numbers = math.prod(lane.input_shape) * lane.outputs
                told = f"remembers {numbers:,} outputs of each window of tokens"
                found.append(Problem("kind", told, "use method replay with streams of texts"))
            return found

    config: Der.Config

    @property
    def uses(self) -> int:
        return 2 if self.config.beta else 1

    def targets(self, y: Tensor, uses: list[Columns]) -> Targets:
        alpha, beta = self.config.alpha, self.config.beta
        more = {"weight": weights(y, uses, [1.0, 0.0, beta])}
        if uses:
            width = uses[0]["outputs"].shape[1:]
            none = torch.zeros((len(y), *width), device=y.device)
            more["outputs"] = joined(none, uses, "outputs")
            more["distilled"] = weights(y, uses, [0.0, alpha, 0.0])
        return Targets(joined(y, uses), more)

    def loss(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Any) -> Tensor:
        assert self.objective is not None
        outputs, more = model(x), y.more
        losses_B = more["weight"] * self.objective.losses(outputs, y.y)
        if "outputs" in more:
            answering = self.objective.answering(outputs, y.y)
            squared = (outputs - more["outputs"]).square() * answering
            squared_B = squared.flatten(1).sum(1) / answering.flatten(1).sum(1)
            losses_B = losses_B + more["distilled"] * squared_B
        return losses_B.mean()

    def remembered(self, context: MethodContext, x: Tensor, y: Tensor, at: Tensor) -> Columns:
        context.model.eval()
        with torch.no_grad():
            outputs = context.model(x[at])
        context.model.train()
        return {**super().remembered(context, x, y, at), "outputs": outputs}


class DerPlusPlus(Der):
    """DER that replays remembered targets too (DER++, arXiv 2004.07211, equation 6)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Der.Config):
        """Settings of the buffer and the weights of what is replayed."""

        kind: str = "der++"
        beta: float = 0.5
        """Weight of remembered targets."""
