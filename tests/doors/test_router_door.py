"""A router from outside that reads its context: a row of logits for each domain, cooling down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.doors.routed_lane import both, routed_lane
from workers.moe.routers import Router, RouterContext


class DomainRouter(Router):
    """Logits that depend on the token's domain, where it is known, and sharpen with progress."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        kind: str
        domains: int = 3

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.tables = nn.ParameterDict()
        self.rows = nn.ParameterDict()
        self.config, self.inputs = config, inputs

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        assert 0.0 <= context.progress <= 1.0
        logits_TE = x_TD @ torch.stack(list(self.rows.values()), 1)
        table_GE = torch.stack(list(self.tables.values()), 1)
        known = table_GE.mean(0) if context.domain_T is None else table_GE[context.domain_T]
        return (logits_TE + known) * (1.0 + context.progress)

    def add(self, expert: int) -> None:
        self.tables[str(expert)] = nn.Parameter(torch.randn(self.config.domains) * 0.1)
        self.rows[str(expert)] = nn.Parameter(torch.randn(self.inputs) * 0.1)

    def remove(self, expert: int) -> None:
        del self.tables[str(expert)], self.rows[str(expert)]

    @torch.no_grad()
    def split(self, parent: int, child: int, amount: float) -> None:
        self.shift_bias(parent, -amount)
        for named in (self.tables, self.rows):
            named[str(child)].copy_(named[str(parent)])

    @torch.no_grad()
    def shift_bias(self, expert: int, amount: float) -> None:
        self.tables[str(expert)].add_(amount)

    @torch.no_grad()
    def suppress(self, expert: int, offset: float, steps: int) -> None:
        self.shift_bias(expert, -offset)


def test_a_router_that_reads_its_context_goes_through_a_lane(tmp_path: Path) -> None:
    layer: dict[str, Any] = {
        "kind": "moe",
        "router": {"kind": "tests.doors.test_router_door:DomainRouter"},
        "expert": {"kind": "bottleneck", "width": 6},
    }
    both(tmp_path, routed_lane(layer, initialiser="clone_split"))


class Relay(DomainRouter):
    """Needs the domain everywhere, and adds the mean of what the routers below handed on."""

    needs_domain = True

    def route(self, x_TD: Tensor, context: RouterContext) -> tuple[Tensor, Tensor | None]:
        assert context.domain_T is not None
        assert context.domain_T.shape == (len(x_TD),)
        heard = 0.0 if context.below is None else context.below.mean(1, keepdim=True)
        logits_TE = self(x_TD, context)
        return logits_TE * (1.0 + torch.tanh(heard + logits_TE[:, :1])), logits_TE


def test_a_router_that_knows_domains_and_hears_the_layer_below(tmp_path: Path) -> None:
    """Training, growth, training scores and evaluations tell it; and it survives kills."""
    raw = routed_lane({"kind": "moe", "router": {"kind": f"{__name__}:Relay", "domains": 3}})
    raw["model"]["head"]["hidden"] = [24, 24]
    both(tmp_path, raw)
