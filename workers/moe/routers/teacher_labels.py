"""A linear router fitted to pseudo-labels: the experts that come closest to a dense teacher.

FactorLLM (arXiv 2408.11855). Letters: T tokens, E experts, D inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.moe.routers.base import Router
from workers.moe.routers.linear import LinearRouter
from workers.moe.selectors.base import largest


class TeacherLabelsRouter(LinearRouter):
    """Linear, fitted by KL(q || softmax(r)), q = 1/k on the k experts that cost least (2408.11855).

    Costs are the errors ||E_e(x) - k/E FFN(x)||^2 against the dense layer that the experts were cut
    from, or losses. The fit runs Adam on all tokens at once; no loss of the task takes part in it.
    Between fits it is trained as a linear router is.
    """

    start_from = Router.start_from
    fit_targets: ClassVar[tuple[str, ...]] = ("errors", "losses")

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the fit."""

        kind: str = "teacher_labels"
        k: int | None = None
        """Experts that a token is labelled with; None = half of them."""
        steps: int = 200
        """Steps of Adam."""
        rate: float = 0.05
        """Learning rate of Adam."""

        def __post_init__(self) -> None:
            if (self.k is not None and self.k < 1) or self.steps < 1 or self.rate <= 0:
                raise ValueError("k and steps must be at least 1 and rate above 0")

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(), inputs)
        self.config = config

    def fit(self, x_TD: Tensor, y: Tensor, seed: int) -> None:
        """y: cost of each expert for each token [T, E]. Begins at the rows there are."""
        experts = len(self.rows)
        k = min(self.config.k or max(1, experts // 2), experts)
        wanted_TE = largest(-y, k).float() / k
        x_TD = x_TD.detach().float()
        rows = torch.stack([row.detach().float() for row in self.rows.values()])
        biases = torch.stack([bias.detach().float() for bias in self.biases.values()])
        learnt = [nn.Parameter(rows), nn.Parameter(biases)]
        optimizer = torch.optim.Adam(learnt, self.config.rate)
        with torch.enable_grad():
            for _ in range(self.config.steps):
                optimizer.zero_grad()
                scores_TE = functional.log_softmax(functional.linear(x_TD, *learnt), -1)
                functional.kl_div(scores_TE, wanted_TE, reduction="batchmean").backward()
                optimizer.step()
        with torch.no_grad():
            for place, name in enumerate(self.rows):
                self.rows[name].copy_(learnt[0][place])
                self.biases[name].copy_(learnt[1][place])
