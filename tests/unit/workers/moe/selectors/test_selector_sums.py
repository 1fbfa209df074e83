"""What a selector learns of its tokens beside logits, and what it has added up over an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.moe.experts import LinearExpert
from workers.moe.layers import MoELayer
from workers.moe.selection import Selection
from workers.moe.selectors import Selector
from workers.moe.tallies import forget_counts, take_sums
from workers.supervised.recomputation import recompute_blocks


class Positive(Selector):
    """Experts of positive logit, if the token's first feature is positive."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """No settings."""

        kind: str = f"{__name__}:Positive"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.kept: list[float] = []

    def for_inputs(self, inputs: int) -> None:
        self.inputs = inputs

    def active(self, experts: int) -> float:
        return experts / 2

    def forward(
        self, x_TD: Tensor, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool
    ) -> Selection:
        assert x_TD.shape[1] == self.inputs
        chosen_TE = (logits_TE > 0) & (x_TD[:, :1] > 0)
        sums = {"load": chosen_TE.sum(0), "features": x_TD.sum(0)}
        return Selection(chosen_TE, logits_TE * chosen_TE, sums=sums)

    def summed(self, experts: int) -> Mapping[str, int]:
        return {"load": experts, "features": self.inputs}

    def take(self, sums: Mapping[str, Tensor]) -> dict[str, list[float]]:
        self.kept = sums["features"].tolist()
        return {"load": sums["load"].tolist()}


def _net(experts: int = 3) -> nn.Sequential:
    config = MoELayer.Config(selector=Positive.Config(), expert=LinearExpert.Config())
    return nn.Sequential(MoELayer(config, 6, 4, experts))


def test_sums_are_of_training_tokens_since_they_were_taken() -> None:
    net, x_TD = _net(), torch.randn(32, 6)
    logits_TE = net[0].router(x_TD, None)
    chosen_TE = (logits_TE > 0) & (x_TD[:, :1] > 0)
    with torch.no_grad():
        net(x_TD)
    assert take_sums(net) == {"0": {"load": [0.0] * 3}}, "only training counts"
    net(x_TD)
    net(x_TD[:5])
    wanted = (chosen_TE.sum(0) + chosen_TE[:5].sum(0)).tolist()
    assert take_sums(net) == {"0": {"load": wanted}}
    torch.testing.assert_close(
        torch.tensor(net[0].selector.kept), (x_TD.sum(0) + x_TD[:5].sum(0)), atol=1e-5, rtol=1e-5
    )
    assert take_sums(net) == {"0": {"load": [0.0] * 3}}
    net(x_TD)
    forget_counts(net)
    assert take_sums(net) == {"0": {"load": [0.0] * 3}}


def test_sums_of_several_workers_are_handed_to_the_selector_of_each() -> None:
    net, x_TD = _net(), torch.randn(32, 6)
    net(x_TD)
    single = take_sums(net)
    kept = net[0].selector.kept
    net(x_TD)
    doubled = take_sums(net, lambda sums: 2 * sums)
    assert doubled["0"]["load"] == [2 * n for n in single["0"]["load"]]
    assert net[0].selector.kept == [2 * n for n in kept]


def test_a_pass_that_is_repeated_in_the_backward_pass_is_added_once() -> None:
    class Blocks(nn.Module):
        has_blocks = True

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([_net()])

        def forward(self, x_TD: Tensor) -> Tensor:
            y: Tensor = self.blocks[0](x_TD)
            return y

    torch.manual_seed(0)
    net, x_TD = Blocks(), torch.randn(32, 6, requires_grad=True)
    net(x_TD)
    once = take_sums(net)
    recompute_blocks(net)
    net(x_TD).square().sum().backward()
    assert take_sums(net) == once
    assert sum(once["blocks.0.0"]["load"]) > 0
