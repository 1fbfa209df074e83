"""Elastic weight consolidation: importance is the diagonal Fisher information of each task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from workers.contract import LaneSettings, derive_seed
from workers.methods.base import MethodContext
from workers.methods.parameters import Known
from workers.methods.penalty import QuadraticPenalty
from workers.methods.per_sample import Scalar, mean_over_samples
from workers.supervised.precision import precise
from workers.tables import Problem


class EWC(QuadraticPenalty):
    """Elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796, equation 3).

    ``L + strength / 2 * sum_t sum_k F_tk (theta_k - theta*_tk)^2`` over the earlier tasks t, with
    theta*_t where task t ended and F_t the diagonal Fisher information there:
    ``F_tk = E_x E_{y ~ p(y | x)} (d log p(y | x) / d theta_k)^2``, the mean over ``samples``.

    Kept is the sum of all F_t and the mean of the theta*_t weighted by them: the penalty to that
    one anchor differs from the sum of penalties by a constant, so its gradient is the same at any
    number of tasks.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(QuadraticPenalty.Config):
        """Strength, and how the Fisher information is estimated."""

        kind: str = "ewc"
        strength: float = 1000.0
        """Weight of the penalty (lambda)."""
        samples: int = 200
        """Training samples of each task that the Fisher information is the mean over."""
        labels: Literal["model", "data"] = "model"
        """``model``: labels are drawn from what the model answers (the Fisher information);
        ``data``: those of the data (empirical Fisher), of any objective."""

        def __post_init__(self) -> None:
            QuadraticPenalty.Config.__post_init__(self)
            if self.samples < 1:
                raise ValueError(f"samples must be at least 1, got {self.samples}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Labels can be drawn where there are some."""
            if self.labels == "data" or lane.labels:
                return []
            found = "got 'model', and the stream's targets are no labels of classes"
            return [Problem("labels", found, "use labels = 'data' (empirical Fisher)")]

    config: EWC.Config
    plain_start = True

    @torch.no_grad()
    def end_stage(self, context: MethodContext) -> None:
        with torch.enable_grad():
            fisher = mean_over_samples(
                context, self.config.samples, self._log_likelihood(context), torch.square
            )
        for name, parameter in context.model.named_parameters():
            value = precise(context.optimizer, parameter).clone()
            old = self.known.of(name) if name in self.known else None
            self.known.put(name, parameter, self._joined(old, fisher[name], value))

    def _joined(self, old: Known | None, fisher: Tensor, value: Tensor) -> Known:
        """What is known of a parameter after another task."""
        if old is None:
            return {"importance": fisher, "anchor": value}
        total = old["importance"] + fisher
        anchor = (old["importance"] * old["anchor"] + fisher * value) / total
        return {"importance": total, "anchor": torch.where(total > 0, anchor, value)}

    def _log_likelihood(self, context: MethodContext) -> Scalar:
        """What is squared, but for the sign: the loss of one sample."""
        objective: Any = context.objective
        if self.config.labels == "data":
            return objective.loss
        generator = torch.Generator().manual_seed(derive_seed(context.seed, "labels"))

        def drawn(outputs: Tensor, y: Tensor) -> Tensor:
            p_BC = objective.answers(outputs.detach(), y).softmax(-1).cpu()
            label = torch.multinomial(p_BC, 1, generator=generator).flatten().to(y.device)
            loss: Tensor = objective.loss(outputs, label)
            return loss

        return drawn
