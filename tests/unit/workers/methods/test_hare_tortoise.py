"""Hare and tortoise: the average, the return, newborn experts."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.methods.steps import ROUTED, build, classifier, context, trained
from tests.unit.workers.methods.test_l2_init import grown
from workers.moe.growth.optimizer_state import MASTER
from workers.supervised.precision import MasterWeights, lower


def test_the_average_by_hand() -> None:
    model, method = classifier(**ROUTED), build("hare_tortoise", momentum=0.9, every=3)
    method.watch(model)
    name, parameter = next(iter(model.named_parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = parameter.detach().double().clone()
    for step in range(1, 7):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(float(step))
        average = 0.9 * average + 0.1 * parameter.detach().double()
        hare = parameter.detach().clone()
        method.after_step(context(model, optimizer))
        assert torch.allclose(method.tortoise[name].double(), average, atol=1e-5)
        if step % 3 == 0:
            assert torch.equal(parameter, method.tortoise[name])
            average = parameter.detach().double().clone()
        else:
            assert torch.equal(parameter, hare)


def test_frozen_parameters_stay_and_new_experts_start_as_they_are() -> None:
    model, method = classifier(**ROUTED), build("hare_tortoise", momentum=0.5, every=1)
    method.watch(model)
    frozen = model.head.layers[0].experts["0"].up.weight
    frozen.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = frozen.clone()
    list(trained(method, model, optimizer, 2))
    assert torch.equal(frozen, before)
    kept = {name: value.clone() for name, value in method.tortoise.items()}
    grown(model, method, experts=3, revision=1)
    assert all(torch.equal(method.tortoise[name], value) for name, value in kept.items())
    new = "head.layers.0.experts.2.up.weight"
    assert torch.equal(method.tortoise[new], model.get_parameter(new))


def test_master_weights_follow_the_return() -> None:
    model, method = classifier(**ROUTED), build("hare_tortoise", momentum=0.5, every=1)
    lower(model)
    method.watch(model)
    optimizer = MasterWeights(torch.optim.SGD(model.parameters(), lr=0.1))
    list(trained(method, model, optimizer, 2))
    parameter = model.head.layers[1].weight
    assert method.tortoise["head.layers.1.weight"].dtype is torch.float32
    returned = parameter.detach().clone()
    parameter.grad = torch.zeros_like(parameter)
    for other in model.parameters():
        other.grad = None if other is not parameter else other.grad
    optimizer.step()
    master = optimizer.state[parameter][MASTER]
    assert torch.equal(master.bfloat16(), returned), "it counts from where the return put it"
    assert torch.equal(parameter, returned)


@pytest.mark.parametrize(("field", "value"), [("momentum", 1.0), ("every", 0)])
def test_settings_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(AssertionError, match=f"{field} must be"):
        build("hare_tortoise", **{field: value})
