"""The cosine router: experts are directions, and a token's length does not count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError
from workers.moe.losses.base import Loss
from workers.moe.routed import Routed
from workers.moe.routers.base import RouterContext
from workers.moe.routers.linear import LinearRouter
from workers.moe.selection import exact

LARGEST = 100.0
"""Largest scale, as DynMoE has it."""


class CosineRouter(LinearRouter):
    """``r_e(x) = s cos(x, w_e)`` with a trained scale s (DynMoE, arXiv 2405.14297).

    Rows are drawn as those of a linear router; shifts of copies stand beside them. Its loss
    ``diversity`` is ``||C - I||_F + (1/E) sum_e ||w_e||``, C the cosines between the rows: it keeps
    directions apart and rows short.
    """

    directions: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the cosine router."""

        kind: str = "cosine"
        scale: float = 10.0
        """s at the start; it is trained, up to 100."""
        diversity: float = 0.0
        """Weight of the loss ``diversity``; 0 = without."""

        def __post_init__(self) -> None:
            if not 0 < self.scale <= LARGEST or self.diversity < 0:
                raise ValueError(
                    f"scale must be above 0 and at most {LARGEST:g}, diversity not negative, got "
                    f"{self.scale} and {self.diversity}"
                )

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(bias=False), inputs)
        self.config = config
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E] in float32."""
        rows_ED = exact(torch.stack(list(self.rows.values())))
        scale = exact(self.log_scale).clamp(max=math.log(LARGEST)).exp()
        x_TD = functional.normalize(exact(x_TD), dim=1)
        return self.shift(scale * functional.linear(x_TD, functional.normalize(rows_ED)), context)

    def losses(self) -> tuple[Loss, ...]:
        weight = self.config.diversity
        return (Diversity(Diversity.Config(weight=weight)),) if weight else ()

    def start_from(self, rows_ED: Tensor, biases_E: Tensor | None) -> None:
        """Raises InputError: it is no linear map."""
        raise InputError(
            "router cosine cannot start from the linear router of a trained model; use router "
            "linear or adaptive"
        )

    def as_linear(self) -> Any:
        """Raises InputError: it is no linear map."""
        raise InputError("router cosine is no linear map of a token's features; use router linear")


class Diversity(Loss):
    """``||C - I||_F + (1/E) sum_e ||w_e||`` over the rows of a cosine router."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the diversity loss."""

        kind: str = "diversity"

    def loss(self, routed: Routed) -> Tensor:
        """See ``Loss.loss``."""
        rows_ED = exact(torch.stack(list(routed.router.rows.values())))
        unit_ED = functional.normalize(rows_ED)
        apart_EE = unit_ED @ unit_ED.t() - torch.eye(len(rows_ED), device=rows_ED.device)
        return _length(apart_EE.reshape(1, -1)).sum() + _length(rows_ED).mean()


def _length(rows: Tensor) -> Tensor:
    """Euclidean length of each row, with a gradient where it is 0."""
    return (rows.square().sum(1) + 1e-12).sqrt()
