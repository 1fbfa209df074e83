"""Recycling of dormant units: who is dormant, what becomes of them, and of nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.workers.edits.test_shrink_perturb import FIELDS, stepped
from tests.unit.workers.methods.steps import DENSE, ROUTED, build, classifier, context
from workers.contract import InputError
from workers.edits import RecycleDormant
from workers.moe.growth import surgery

EDIT = RecycleDormant(**FIELDS, tau=0.1)


def dead(model: Any, which: list[int]) -> None:
    with torch.no_grad():
        model.head.layers[0].weight[which] = 0.0
        model.head.layers[0].bias[which] = -1.0


def test_dormant_units_are_made_new_and_nothing_changes_but_them() -> None:
    model, x = classifier(**DENSE), torch.randn(64, 6)
    optimizer = stepped(model)
    dead(model, [1, 3])
    with torch.no_grad():
        h = torch.relu(model.head.layers[0](x))
    score = h.mean(0) / h.mean(0).mean()
    assert (score <= 0.1).nonzero()[:, 0].tolist() == [1, 3], "the rest is awake"
    second = torch.relu(model.head.layers[1](h)).detach().mean(0)
    asleep = (second <= 0.1 * second.mean()).nonzero()[:, 0].tolist()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = optimizer.state[model.head.layers[0].weight]["exp_avg"].clone()
    report = surgery.apply(model, optimizer, EDIT, x)
    wanted = {"recycled/head.layers.0": 2.0}
    assert report.figures == (
        wanted | ({"recycled/head.layers.1": float(len(asleep))} if asleep else {})
    )
    first = model.head.layers[0]
    assert (first.weight[[1, 3]] != 0).all()
    assert torch.equal(first.weight[[0, 2, 4]], before["head.layers.0.weight"][[0, 2, 4]])
    assert not model.head.layers[1].weight[:, [1, 3]].any()
    assert torch.equal(
        model.head.layers[1].weight[:, [0, 2, 4]][[j for j in range(4) if j not in asleep]],
        before["head.layers.1.weight"][:, [0, 2, 4]][[j for j in range(4) if j not in asleep]],
    )
    after = optimizer.state[first.weight]["exp_avg"]
    assert not after[[1, 3]].any()
    assert torch.equal(after[[0, 2, 4]], moments[[0, 2, 4]])
    if not asleep:
        assert report.probe_change == pytest.approx(0.0, abs=1e-6), "they gave nothing"


def test_it_is_seeded_and_a_method_that_counts_units_hears_of_it() -> None:
    x, models = torch.randn(64, 6), []
    for _ in range(2):
        model = classifier(**DENSE)
        dead(model, [1, 3])
        method = build("continual_backprop", replacement=0.0)
        method.watch(model)
        method.kept["head.layers.0"]["age"] += 5.0
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        report, change = surgery.follow(model, optimizer, EDIT, x)
        method.watch(model)
        method.edited(context(model, optimizer, change), report)
        assert method.kept["head.layers.0"]["age"].tolist() == [5.0, 0.0, 5.0, 0.0, 5.0]
        models.append(report.fingerprint)
    assert models[0] == models[1]


def test_experts_that_no_token_chose_and_frozen_ones_stay() -> None:
    layer = {
        "selector": {"kind": "topk", "k": 1, "weights": "full"},
        "expert": {"kind": "bottleneck", "width": 4},
    }
    model = classifier(**{**ROUTED, "head": {"kind": "moe", "hidden": [5], "layer": layer}})
    routed = model.head.layers[0]
    with torch.no_grad():
        routed.router.biases["1"].fill_(-1e4)
        for expert in routed.experts.values():
            expert.up.bias.fill_(-100.0)  # nothing fires anywhere
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = surgery.apply(model, None, EDIT, torch.randn(32, 6))
    assert report.figures["recycled/head.layers.0.experts.0"] == 4.0
    assert "recycled/head.layers.0.experts.1" not in report.figures
    named = dict(model.named_parameters())
    up = "head.layers.0.experts.{}.up.weight"
    assert torch.equal(named[up.format(1)], before[up.format(1)])
    routed.experts["0"].requires_grad_(False)
    again = surgery.apply(model, None, EDIT, torch.randn(32, 6))
    assert "recycled/head.layers.0.experts.0" not in again.figures


def test_a_model_without_units_and_a_lane_without_samples_are_refused() -> None:
    with pytest.raises(InputError, match="tells no units"):
        surgery.apply(torch.nn.Linear(6, 3), None, EDIT, torch.randn(4, 6))
    with pytest.raises(InputError, match="no samples"):
        surgery.apply(classifier(**DENSE), None, EDIT, None)
