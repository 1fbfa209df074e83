"""The prototype router: an expert is scored by how much a token is like its prototype.

ProMoE (arXiv 2510.24711). Letters: T tokens, E experts, D inputs, U experts that were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from workers.moe.losses.base import Loss
from workers.moe.routed import Routed
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.linear import LinearRouter
from workers.moe.selection import exact


class PrototypeRouter(LinearRouter):
    """s_e(x) = cos(x, p_e) / temperature, in float32 (ProMoE, arXiv 2510.24711).

    Brings along the contrastive loss that draws a prototype to the inputs it gets and away from
    those of others, instead of a loss for balance. ``place`` puts the prototype of a new expert
    where the old ones serve worst (initialiser ``worst_served``).
    """

    directions: ClassVar[bool] = True
    start_from = Router.start_from
    as_linear = Router.as_linear

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the prototype router."""

        kind: str = "prototype"
        temperature: float = 0.1
        """Divides the cosines."""
        contrastive: float = 1.0
        """Weight of the contrastive loss; 0 = none."""
        contrastive_temperature: float = 0.07
        """t of the contrastive loss."""

        def __post_init__(self) -> None:
            for name in ("temperature", "contrastive_temperature"):
                if getattr(self, name) <= 0:
                    raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
            if self.contrastive < 0:
                raise ValueError(f"contrastive must not be negative, got {self.contrastive}")

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__(LinearRouter.Config(bias=False), inputs)
        self.config = config

    @property
    def prototypes_ED(self) -> Tensor:
        """Prototypes of unit length, float32."""
        return functional.normalize(exact(torch.stack(list(self.rows.values()))), dim=-1)

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E]."""
        x_TD = functional.normalize(exact(x_TD), dim=-1)
        return self.shift(x_TD @ self.prototypes_ED.T / self.config.temperature, context)

    @torch.no_grad()
    def place(self, expert: int, x_TD: Tensor, share: float) -> None:
        """See ``Router.place``: the mean of the inputs least like any other prototype."""
        unit_TD = functional.normalize(exact(x_TD), dim=-1)
        others = [place for place, name in enumerate(self.rows) if name != str(expert)]
        if others:
            best_T = (unit_TD @ self.prototypes_ED[others].T).amax(1)
            worst = best_T.argsort(stable=True)[: max(1, round(share * len(best_T)))]
            unit_TD = unit_TD[worst]
        self.rows[str(expert)].copy_(unit_TD.mean(0))

    def losses(self) -> tuple[Loss, ...]:
        """The contrastive loss, while prototypes learn."""
        weight = self.config.contrastive
        if not weight or not any(row.requires_grad for row in self.rows.values()):
            return ()
        tau = self.config.contrastive_temperature
        return (RoutingContrastive(RoutingContrastive.Config(weight=weight, temperature=tau)),)


class RoutingContrastive(Loss):
    """L = -mean_i ln (e^{cos(p_i, m_i) / t} / sum_j e^{cos(p_i, m_j) / t}) (arXiv 2510.24711).

    m_i: mean of the inputs sent to expert i; experts without any are left out, and with fewer than
    two there is nothing to tell apart. Moves prototypes only, not the features.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Loss.Config):
        """Settings of the loss; a prototype router brings it along."""

        kind: str = "routing_contrastive"
        temperature: float = 0.07
        """t."""

    def loss(self, routed: Routed) -> Tensor | None:
        """See ``Loss.loss``."""
        sent_ET = routed.chosen.T.float()
        used = sent_ET.sum(1) > 0
        if int(used.sum()) < 2:
            return None
        means_UD = sent_ET[used] @ exact(routed.x.detach()) / sent_ET[used].sum(1, keepdim=True)
        cosines_UU = routed.router.prototypes_ED[used] @ functional.normalize(means_UD, dim=-1).T
        own_U = torch.arange(len(cosines_UU), device=cosines_UU.device)
        return functional.cross_entropy(cosines_UU / self.config.temperature, own_U)
