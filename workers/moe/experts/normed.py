"""The normed expert: another one whose output is normalised and passed through a smooth gate.

Letters: S rows, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import LaneSettings
from workers.moe.experts.base import Expert, sequences
from workers.moe.growth.budget import Size
from workers.moe.selection import exact
from workers.tables import Problem, choice, construct, lookup


def _table() -> Mapping[str, type]:
    from workers.moe.experts import EXPERTS

    return EXPERTS


class NormedExpert(Expert):
    """z = Swish(Norm(E(x))), so that a gate compares experts of one scale (HoME, arXiv 2408.05430).

    ``norm = "layer"`` normalises each row over its outputs: it depends on nothing but the row, so
    it is alike however many rows an expert gets, on several workers, and when acting. ``"batch"``,
    the paper's, normalises each output over the rows that reached the expert in this forward (by
    its running statistics where gradients are off, the expert is frozen or there is one row only);
    the statistics are buffers of the expert's own, which growth leaves alone and copies take along.
    Both are taken in float32.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a normed expert."""

        kind: str = "normed"
        inner: Any = choice(_table, "bottleneck")
        """E: the expert whose output is normalised."""
        norm: Literal["layer", "batch"] = "layer"
        """What the output is normalised over."""

        @property
        def reads_sequences(self) -> bool:
            """As the one inside."""
            return sequences(self.inner)

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Where a model acts, rollouts and learner would normalise by other statistics."""
            if self.norm == "batch" and lane.acts:
                allowed = "must be 'layer' in lanes that act: rollouts and learner must agree"
                return [Problem("norm", repr(self.norm), allowed)]
            return []

    def __init__(self, config: Config, inputs: int, outputs: int, width: int) -> None:
        super().__init__(config, inputs, outputs, width)
        self.inner: Expert = construct(_table(), config.inner, inputs, outputs, width)
        self.norm = BatchNorm(outputs) if config.norm == "batch" else LayerNorm(outputs)
        self.width = self.inner.width
        self.reads_sequences = self.inner.reads_sequences

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y: Tensor = functional.silu(self.norm(self.inner(x)))
        return y

    @staticmethod
    def width_for(config: Config, sizes: Sequence[Size]) -> int:
        """That of the inner expert."""
        found: Any = lookup(_table(), config.inner.kind, "inner.kind")
        width: int = found.width_for(config.inner, sizes)
        return width

    @staticmethod
    def common_part(config: Config, inputs: int, outputs: int) -> nn.Module | None:
        """That of the inner expert."""
        found: Any = lookup(_table(), config.inner.kind, "inner.kind")
        part: nn.Module | None = found.common_part(config.inner, inputs, outputs)
        return part

    def attach(self, part: nn.Module) -> None:
        """See ``Expert.attach``."""
        self.inner.attach(part)

    def detached(self, x: Tensor) -> Tensor:
        """See ``Expert.detached``; running statistics stay where they are."""
        y: Tensor = functional.silu(self.norm.detached(self.inner.detached(x)))
        return y

    @torch.no_grad()
    def zero_output(self) -> None:
        """Scale and shift of the norm become 0, and Swish(0) = 0."""
        self.norm.weight.zero_()
        self.norm.bias.zero_()


class _Norm(nn.Module):
    """Base: a learnt scale and shift for each output."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, y_SO: Tensor) -> Tensor:
        return self.normalise(y_SO, self.weight, self.bias, self.training)

    def detached(self, y_SO: Tensor) -> Tensor:
        """The same, whose gradient reaches ``y`` only, without moving any statistic."""
        return self.normalise(y_SO, self.weight.detach(), self.bias.detach(), False)

    def normalise(self, y_SO: Tensor, weight: Tensor, bias: Tensor, moves: bool) -> Tensor:
        """Normalise in float32; ``moves``: running statistics may follow."""
        raise NotImplementedError


class LayerNorm(_Norm):
    """Over the outputs of each row (arXiv 1607.06450)."""

    def normalise(self, y_SO: Tensor, weight: Tensor, bias: Tensor, moves: bool) -> Tensor:
        z = functional.layer_norm(exact(y_SO), weight.shape, exact(weight), exact(bias))
        return z.to(y_SO.dtype)


class BatchNorm(_Norm):
    """Over the rows of each output (arXiv 1502.03167); no count of batches, which would differ
    between workers where one of them has no row."""

    mean: Tensor
    variance: Tensor
    rate = 0.1
    """Share of a batch's statistics in the running ones."""

    def __init__(self, outputs: int) -> None:
        super().__init__(outputs)
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("variance", torch.ones(outputs))

    def normalise(self, y_SO: Tensor, weight: Tensor, bias: Tensor, moves: bool) -> Tensor:
        values = exact(y_SO).flatten(0, -2)
        learns = self.training and torch.is_grad_enabled() and self.weight.requires_grad
        own = learns and len(values) > 1
        mean, variance = self.mean, self.variance
        if own:
            mean, variance = values.mean(0), values.var(0, correction=0)
            if moves:
                self.mean = self.mean.lerp(mean.detach(), self.rate)
                self.variance = self.variance.lerp(variance.detach(), self.rate)
        z = (values - mean) * torch.rsqrt(variance + 1e-5) * exact(weight) + exact(bias)
        return z.to(y_SO.dtype).view_as(y_SO)
