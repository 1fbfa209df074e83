"""The noisy router: scores with Gaussian noise of a learnt size for each token and expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.moe.losses.base import Loss
from workers.moe.losses.load import Load
from workers.moe.routers.base import RouterContext
from workers.moe.routers.linear import LinearRouter


class NoisyRouter(LinearRouter):
    """Linear scores plus noise of a learnt size in training; with ``topk``, noisy top-k gating.

    ``H(x)_e = (x W + b)_e + N(0, 1) softplus((x W_noise)_e)`` (Shazeer et al. 2017, arXiv
    1701.06538, equations 3 to 5). Where it trains it brings the loss ``load``, which needs scores
    with and without noise; ``importance`` is a loss of the layer. W_noise starts at 0, the noise
    at ln 2.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a noisy router."""

        kind: str = "noisy"
        bias: bool = True
        """Whether each expert has a trained bias; without it, shifts of copies are kept beside
        the parameters and are not trained."""
        load: float = 0.1
        """Weight of the loss ``load``; 0 = none."""

        def __post_init__(self) -> None:
            if self.load < 0:
                raise ValueError(f"load must not be negative, got {self.load}")

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(bias=config.bias), inputs)
        self.noise_rows = nn.ParameterDict()
        self._losses = (Load(Load.Config(weight=config.load)),) if config.load else ()

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E]; with noise from torch's global generator in a training forward."""
        logits_TE = super().forward(x_TD, context)
        if not (self.training and torch.is_grad_enabled()):
            return logits_TE
        return logits_TE + torch.randn_like(logits_TE) * self.spread(x_TD)

    def spread(self, x_TD: Tensor) -> Tensor:
        """Standard deviation of the noise [T, E]."""
        rows_ED = torch.stack(list(self.noise_rows.values()))
        return functional.softplus(functional.linear(x_TD, rows_ED))

    def still(self, x_TD: Tensor) -> Tensor:
        """Logits without noise [T, E]; moves nothing."""
        return super().forward(x_TD, RouterContext(first=False))

    def losses(self) -> tuple[Loss, ...]:
        """``load``, unless its weight is 0."""
        return self._losses

    def add(self, expert: int) -> None:
        """A new row, and one of zeros for its noise."""
        super().add(expert)
        self.noise_rows[str(expert)] = nn.Parameter(self.like.new_zeros(self.inputs))

    def remove(self, expert: int) -> None:
        """Forget the rows of ``expert``."""
        super().remove(expert)
        del self.noise_rows[str(expert)]

    @torch.no_grad()
    def split(self, parent: int, child: int, amount: float) -> None:
        """The copy gets the parent's noise too, drawn apart from it."""
        super().split(parent, child, amount)
        self.noise_rows[str(child)].copy_(self.noise_rows[str(parent)])

    def parameters_of(self, expert: int) -> list[nn.Parameter]:
        """The rows of ``expert``, and its bias if it has one."""
        return [*super().parameters_of(expert), self.noise_rows[str(expert)]]
