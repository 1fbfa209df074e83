"""Accuracy without layers and without width, where both are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from workers.diagnostics import DIAGNOSTICS, Probe
from workers.moe.layers import MoELayer

CLASS: Any = DIAGNOSTICS["prune_probe"]


def probe(model: nn.Module, x: torch.Tensor, y: torch.Tensor | None) -> Probe:
    return Probe(
        model=model.eval(),
        inputs=x,
        outputs=model(x).detach(),
        targets=y,
        domains=("d",),
        domain=torch.zeros(len(x), dtype=torch.long),
    )


def figures(seen: Probe, **settings: Any) -> dict[str, float]:
    found: dict[str, float] = CLASS(CLASS.Config(kind="prune_probe", **settings)).figures(seen)
    return found


def model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [MoELayer(MoELayer.Config(), 8, 8, experts=2, seed=1)]
    layers.append(MoELayer(MoELayer.Config(), 8, 16, experts=2, seed=2))
    return nn.Sequential(*layers, nn.Linear(16, 3))


def test_a_dropped_layer_answers_its_input_or_nothing() -> None:
    net = model()
    x = torch.randn(60, 8)
    y = net(x).argmax(-1)
    found = figures(probe(net, x, y), widths=())
    assert found["whole"] == 1.0
    without_first = net[2](net[1](x)).argmax(-1)
    assert found["drop/0"] == pytest.approx(float((without_first == y).double().mean()))
    constant = net[2].bias.argmax()
    assert found["drop/1"] == pytest.approx(float((constant == y).double().mean()))


def test_width_that_is_not_needed_is_not_missed_and_the_model_stays() -> None:
    torch.manual_seed(0)
    expert = {"width": 8}
    from workers.moe.experts import Bottleneck

    net = nn.Sequential(
        MoELayer(MoELayer.Config(expert=Bottleneck.Config(**expert)), 8, 3, experts=1, seed=1)
    )
    with torch.no_grad():
        net[0].expert(0).down.weight[:, [1, 3, 4, 6]] = 0.0  # idle units
    x = torch.randn(200, 8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = figures(probe(net, x, net(x).argmax(-1)), widths=(0.5, 0.125))
    assert found["width/0.5"] > 0.99
    assert found["width/0.125"] < found["width/0.5"]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_there_is_nothing_to_tell_without_classes_or_experts() -> None:
    net, x = model(), torch.randn(5, 8)
    assert figures(probe(net, x, None)) == {}
    assert figures(probe(nn.Linear(8, 3), x, torch.zeros(5, dtype=torch.long))) == {}
