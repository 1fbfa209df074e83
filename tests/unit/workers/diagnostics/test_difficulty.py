"""Correlation of the number of experts with the loss, on a router made for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.diagnostics import DIAGNOSTICS, Probe
from workers.moe.experts import Bottleneck
from workers.moe.layers import MoELayer
from workers.moe.routers import LinearRouter
from workers.moe.selectors import TopP


class Scores(nn.Module):
    """A routed layer whose answer is left aside: outputs are the inputs' last features."""

    def __init__(self) -> None:
        super().__init__()
        config = MoELayer.Config(
            selector=TopP.Config(p=0.7),
            router=LinearRouter.Config(bias=False),
            expert=Bottleneck.Config(width=4),
        )
        self.layer = MoELayer(config, 5, 8, 3, None, seed=0)
        with torch.no_grad():
            for place, row in enumerate(self.layer.router.rows.values()):
                row.copy_(nn.functional.one_hot(torch.tensor(place), 5))

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return x[..., 3:]


def figures(inputs: Tensor, targets: Tensor | None) -> dict[str, float]:
    cls: Any = DIAGNOSTICS["experts_by_loss"]
    probe = Probe(
        model=Scores().eval(),
        inputs=inputs,
        outputs=inputs[..., 3:],
        targets=targets,
        domains=("a",),
        domain=torch.zeros(len(inputs), dtype=torch.int64),
    )
    return cls(cls.Config(kind="experts_by_loss")).figures(probe)


SURE, UNSURE = [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]


def test_unsure_where_it_is_wrong_and_unsure_where_it_is_right() -> None:
    """1 and 3 experts; losses of two answers, one right and one wrong."""
    inputs = torch.tensor([[*SURE, 2.0, 0.0], [*UNSURE, 0.0, 2.0]] * 4)
    assert figures(inputs, torch.zeros(8, dtype=torch.int64)) == {"layer": pytest.approx(1.0)}
    assert figures(inputs, torch.ones(8, dtype=torch.int64)) == {"layer": pytest.approx(-1.0)}


def test_pearson_over_samples_of_several_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 3, 5, generator=generator) * 3
    targets = torch.randint(2, (20, 3), generator=generator)
    targets[0, 1] = -100
    (value,) = figures(inputs, targets).values()
    p = torch.softmax(inputs[..., :3], -1).sort(-1, descending=True).values.cumsum(-1)
    k_N = (1 + (p <= 0.7).sum(-1)).double().mean(1)
    each = -torch.log_softmax(inputs[..., 3:].double(), -1)
    each = each.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    counted = targets >= 0
    loss_N = (each * counted).sum(1) / counted.sum(1)
    wanted = torch.corrcoef(torch.stack([k_N, loss_N]))[0, 1]
    assert value == pytest.approx(float(wanted))


def test_nothing_where_there_is_nothing_to_tell() -> None:
    inputs = torch.tensor([[*SURE, 2.0, 0.0], [*SURE, 0.0, 2.0]])
    assert figures(inputs, torch.tensor([0, 0])) == {}, "as many experts everywhere"
    assert figures(inputs, None) == {}, "no targets"
