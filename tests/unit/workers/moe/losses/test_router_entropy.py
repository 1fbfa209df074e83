"""The entropy loss against the entropy computed by hand, and its gradient's direction."""

from __future__ import annotations

import math

import torch

from workers.moe.layers import MoELayer
from workers.moe.losses import RouterEntropy
from workers.moe.routed import Routed, StepContext, observing
from workers.moe.stepping import stepping, take_losses


def _routed(logits_TE: torch.Tensor, allowed_TE: torch.Tensor | None = None) -> Routed:
    if allowed_TE is not None:
        logits_TE = logits_TE.masked_fill(~allowed_TE, float("-inf"))
    p_TE = torch.softmax(logits_TE, -1)
    chosen_TE = torch.ones_like(p_TE, dtype=torch.bool)
    return Routed(p_TE, logits_TE, p_TE, chosen_TE, p_TE, 0.0, (), None, None)


def test_entropy_by_hand() -> None:
    logits_TE = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, math.log(3.0), -80.0, -80.0]])
    wanted = (math.log(4.0) - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)) / 2
    loss = RouterEntropy(RouterEntropy.Config()).loss(_routed(logits_TE))
    torch.testing.assert_close(loss, torch.tensor(wanted))


def test_an_expert_that_is_not_allowed_adds_nothing() -> None:
    logits_TE = torch.tensor([[1.0, 1.0, 5.0]], requires_grad=True)
    routed = _routed(logits_TE, torch.tensor([[True, True, False]]))
    loss = RouterEntropy(RouterEntropy.Config()).loss(routed)
    torch.testing.assert_close(loss, torch.tensor(math.log(2.0)))
    loss.backward()
    assert logits_TE.grad is not None
    assert logits_TE.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_it_lowers_the_number_of_experts() -> None:
    from workers.moe.experts import Bottleneck
    from workers.moe.selectors import TopP

    config = MoELayer.Config(
        selector=TopP.Config(p=0.6),
        expert=Bottleneck.Config(width=4),
        losses=(RouterEntropy.Config(weight=1.0),),
    )
    layer = MoELayer(config, 6, 20, 6, None, seed=1)
    x_TD = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD(layer.router.parameters(), lr=1.0)
    means = []
    for _ in range(20):
        with stepping(layer, StepContext()), observing(layer) as seen:
            layer(x_TD)
            (loss,) = take_losses({"": layer}).values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        means.append(float(seen[""][0].chosen.sum(1).double().mean()))
    assert means[-1] < means[0] - 0.5
