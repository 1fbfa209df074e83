"""Memory aware synapses: importance is how much outputs depend on a parameter; needs no labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.methods.base import MethodContext
from workers.methods.penalty import QuadraticPenalty
from workers.methods.per_sample import mean_over_samples
from workers.supervised.precision import precise


class MAS(QuadraticPenalty):
    """Memory aware synapses (Aljundi et al., arXiv 1711.09601, equations 2 to 4).

    ``Omega_k = sum_t mean_x |d ||f(x)||_2^2 / d theta_k|`` over the samples of each task t, at its
    end; the anchor is where the last task ended. f are the outputs, those of the sample's own task
    where tasks are known. ``strength / 2`` is the paper's lambda.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(QuadraticPenalty.Config):
        """Strength, and how importance is estimated."""

        kind: str = "mas"
        strength: float = 1.0
        """Weight of the penalty."""
        samples: int = 200
        """Training samples of each task that importance is the mean over."""

        def __post_init__(self) -> None:
            QuadraticPenalty.Config.__post_init__(self)
            if self.samples < 1:
                raise ValueError(f"samples must be at least 1, got {self.samples}")

    config: MAS.Config
    plain_start = True

    def end_stage(self, context: MethodContext) -> None:
        objective = context.objective
        assert objective is not None, "outputs of samples are compared with nothing here"

        def squared_norm(outputs: Tensor, y: Tensor) -> Tensor:
            answers = objective.answers(outputs, y)
            return answers.masked_fill(answers.isinf(), 0.0).square().sum()

        found = mean_over_samples(context, self.config.samples, squared_norm, torch.abs)
        for name, parameter in context.model.named_parameters():
            if name in self.known:
                found[name] += self.known.of(name)["importance"]
            anchor = precise(context.optimizer, parameter).detach().clone()
            self.known.put(name, parameter, {"importance": found[name], "anchor": anchor})
