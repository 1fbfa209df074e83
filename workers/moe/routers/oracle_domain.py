"""The oracle: every domain has an expert of its own, and its tokens go there.

Enforced routing as in arXiv 2401.15713, where experts are copies of one layer, one for each domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workers.contract import InputError, LaneSettings
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.known_domains import domain_problems, domains_of_tokens, too_few
from workers.tables import Problem

CLOSED = -1e4
"""Logit of an expert that is not the token's: its softmax weight is exactly 0."""


class OracleDomainRouter(Router):
    """The expert's id is the domain's place: r_e(x) = 0 for e = domain(x), else closed.

    (Enforced routing, arXiv 2401.15713.) Expert 0 is the first domain's, and so on in the order in
    which domains appear in the stream; it has no parameters. In training a domain without an expert
    is an error; elsewhere (before growth has given it one) the newest expert serves it.
    """

    needs_domain: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the oracle."""

        kind: str = "oracle_domain"
        oracle: bool = False
        """It may be told the domain though the stream hides it at test time: an upper bound for
        comparisons, not a method."""

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Domains must be known, and each must get an expert."""
            found = domain_problems(lane, self.oracle)
            needed = len(lane.domains)
            return found or too_few(lane.final_experts, needed, "an expert for each domain")

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.config = config
        self.experts: list[int] = []

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E], float32."""
        domain_T, ids = domains_of_tokens(context), self.experts
        known = [ids.index(id) if id in ids else -1 for id in range(max(ids) + 2)]
        place_T = torch.tensor(known, device=x_TD.device)[domain_T.clamp(max=len(known) - 1)]
        lacks_T = place_T < 0
        if self.training and not domain_T.is_meta and bool(lacks_T.any()):
            raise InputError(
                f"router oracle_domain: domain number {int(domain_T[lacks_T][0])} (from 0) is "
                f"trained, and the layer has experts {ids}; give the model as many experts as "
                "domains, or have policy periodic add one at each stage"
            )
        place_T = place_T.where(~lacks_T, len(ids) - 1)
        logits_TE = x_TD.new_full((len(x_TD), len(ids)), CLOSED).float()
        return logits_TE.scatter(1, place_T.unsqueeze(1), 0.0)

    def add(self, expert: int) -> None:
        """The next domain's expert."""
        self.experts.append(expert)

    def remove(self, expert: int) -> None:
        """Forget an expert; its domain has none any more."""
        self.experts.remove(expert)

    def split(self, parent: int, child: int, amount: float) -> None:
        """A copy serves its own domain alone, so it takes nothing from the parent."""

    def shift_bias(self, expert: int, amount: float) -> None:
        """Refused: an expert's tokens are its domain's, whatever its logit."""
        raise InputError(_RIGID.format("shifted"))

    def suppress(self, expert: int, offset: float, steps: int) -> None:
        """Refused: nobody else serves the domain meanwhile."""
        raise InputError(_RIGID.format("suppressed"))


_RIGID = (
    "router oracle_domain sends a domain's tokens to its expert alone, so no logit can be {}; grow "
    "with initialiser random, zero_out or clone_noise"
)
