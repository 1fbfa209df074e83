"""The ridge router: a closed-form fit that keeps sums, so that new experts need no old data.

DUME (arXiv 2603.29765). Letters: T tokens, E experts, D inputs, A = D + 1 (a constant for biases).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError
from workers.moe.growth.growable import with_zero
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.linear import LinearRouter
from workers.moe.selection import exact


class RidgeRouter(LinearRouter):
    """W = (X^T X + lam I)^-1 X^T Y, columns to unit norm; r = (x W + b) / tau (2603.29765).

    X: inputs with a constant, Y: one-hot of the expert that a token is for, in float64; the bias is
    divided by the norm of its column. X^T X and X^T Y are sums over all tokens of all fits, kept as
    buffers: a fit adds its own, so that fits one after another are the fit of all at once, and sums
    of several workers may be added. Not trained by gradients. Before it was ever in a fit an
    expert keeps the row that it was drawn or copied with.
    """

    start_from = Router.start_from
    fit_targets: ClassVar[tuple[str, ...]] = ("domains", "labels")

    square: Tensor
    moments: Tensor
    counts: Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the ridge router."""

        kind: str = "ridge"
        ridge: float = 1e-2
        """lam."""
        temperature: float = 0.1
        """tau: divides the scores."""

        def __post_init__(self) -> None:
            for name in ("ridge", "temperature"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(), inputs)
        self.config = config
        constant = inputs + 1
        self.register_buffer("square", torch.zeros(constant, constant, dtype=torch.float64))
        self.register_buffer("moments", torch.zeros(0, constant, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E], float32."""
        rows_ED = exact(torch.stack(list(self.rows.values())))
        biases_E = exact(torch.stack(list(self.biases.values())))
        logits_TE = functional.linear(exact(x_TD), rows_ED, biases_E)
        return self.shift(logits_TE / self.config.temperature, context)

    def as_linear(self) -> tuple[Tensor, Tensor | None]:
        """See ``Router.as_linear``."""
        rows_ED, biases_E = super().as_linear()
        assert biases_E is not None
        return rows_ED / self.config.temperature, biases_E / self.config.temperature

    def fit(self, x_TD: Tensor, y: Tensor, seed: int) -> None:
        """Add the sums of these tokens, y int64 [T] the id of each one's expert, and solve."""
        ids = torch.tensor([int(name) for name in self.rows], device=y.device)
        own_TE = y.unsqueeze(1) == ids
        if not own_TE.any(1).all():
            raise InputError(
                f"router ridge: fitted to number {int(y[~own_TE.any(1)][0])} (from 0), the layer "
                f"has experts {ids.tolist()}, one for each domain or label; give it as many"
            )
        self.take(*sums(x_TD, own_TE.int().argmax(1), len(ids)))

    @torch.no_grad()
    def take(self, square_AA: Tensor, moments_EA: Tensor, counts_E: Tensor) -> None:
        """Add sums, of other tokens or of another worker, and solve anew."""
        self.square = self.square + square_AA.to(self.square)
        self.moments = self.moments + moments_EA.to(self.moments)
        self.counts = self.counts + counts_E.to(self.counts)
        solved_EA = self.solved()
        for place, name in enumerate(self.rows):
            if self.counts[place]:
                self.rows[name].copy_(solved_EA[place, :-1])
                self.biases[name].copy_(solved_EA[place, -1])

    def shift_bias(self, expert: int, amount: float) -> None:
        """Add ``amount`` to the expert's logits; they are divided by tau after the bias."""
        super().shift_bias(expert, amount * self.config.temperature)

    def solved(self) -> Tensor:
        """Rows and bias of each expert [E, A], float64, rows of unit norm."""
        lam = self.config.ridge * torch.eye(len(self.square)).to(self.square)
        weights_EA = torch.linalg.solve(self.square + lam, self.moments.T).T
        norms_E1 = weights_EA[:, :-1].norm(dim=1, keepdim=True)
        return weights_EA / norms_E1.clamp_min(1e-12)

    def add(self, expert: int) -> None:
        """A new row, without sums yet."""
        super().add(expert)
        for parameter in self.parameters_of(expert):
            parameter.requires_grad_(False)
        self.counts = with_zero(self.counts)
        longer_EA = self.moments.new_zeros(len(self.moments) + 1, len(self.square))
        longer_EA[:-1] = self.moments
        self.moments = longer_EA

    def remove(self, expert: int) -> None:
        """Forget the row and the moments of ``expert``; its tokens stay in X^T X."""
        kept = [place for place, name in enumerate(self.rows) if name != str(expert)]
        self.moments, self.counts = self.moments[kept], self.counts[kept]
        super().remove(expert)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """None: it is fitted."""
        return iter(())


def sums(x_TD: Tensor, y_T: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """X^T X [A, A], Y^T X [E, A], both float64, and tokens of each expert int64 [E]."""
    x_TA = torch.cat([x_TD.double(), x_TD.new_ones(len(x_TD), 1).double()], 1)
    wanted_TE = functional.one_hot(y_T, experts)
    return x_TA.T @ x_TA, wanted_TE.double().T @ x_TA, wanted_TE.sum(0)
