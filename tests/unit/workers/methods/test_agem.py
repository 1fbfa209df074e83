"""A-GEM: the projection by formula, and gradients that do not conflict left as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.workers.methods.contexts import around, build, data, net, samples
from workers.methods import METHODS
from workers.methods.agem import project
from workers.parsing import choose


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def gradients(sign: float) -> tuple[list[Tensor], list[Tensor]]:
    """A gradient and a reference whose product has this sign."""
    torch.manual_seed(0)
    reference = [torch.randn(5, 3), torch.randn(4)]
    gradient = [torch.randn(5, 3), torch.randn(4)]
    share = (flat(gradient) @ flat(reference)) / flat(reference).square().sum()
    return [g + (sign - share) * r for g, r in zip(gradient, reference, strict=True)], reference


def test_a_conflicting_gradient_becomes_orthogonal_and_moves_as_little_as_can_be() -> None:
    gradient, reference = gradients(-0.7)
    before = flat(gradient).clone()
    project(gradient, reference)
    after, away = flat(gradient), flat(reference)
    assert float(after @ away) == pytest.approx(0.0, abs=1e-5)
    assert torch.allclose(before - after, -0.7 * away, atol=1e-5), "along the reference alone"


@pytest.mark.parametrize("sign", [0.7, 1e-3])
def test_others_keep_their_bits(sign: float) -> None:
    gradient, reference = gradients(sign)
    before = [part.clone() for part in gradient]
    project(gradient, reference)
    assert all(torch.equal(p, q) for p, q in zip(gradient, before, strict=True))


def test_products_of_half_precision_are_summed_in_float32() -> None:
    gradient, reference = ([part.bfloat16() for part in parts] for parts in gradients(-0.7))
    project(gradient, reference)
    left = flat([part.float() for part in gradient]) @ flat([part.float() for part in reference])
    assert abs(float(left)) < 0.02 * float(flat(reference).float().square().sum())
    assert all(part.dtype is torch.bfloat16 for part in gradient)


def remembering(model: nn.Module, count: int = 6, batch: int = 50) -> Any:
    method = build("agem", batch=batch)
    method.end_stage(around(model, samples=data(*samples(count))))
    return method


def test_the_reference_is_the_gradient_of_all_that_is_remembered() -> None:
    model, (x, y) = net(), samples()
    method = remembering(model)
    loss = nn.functional.cross_entropy(model(x), y)
    reference = flat(list(torch.autograd.grad(loss, list(model.parameters()))))
    for parameter, part in zip(
        model.parameters(), reference.split([p.numel() for p in model.parameters()]), strict=True
    ):
        parameter.grad = -2.0 * part.view_as(parameter)
    method.after_backward(around(model))
    assert torch.allclose(flat([p.grad for p in model.parameters()]), torch.zeros(44), atol=1e-5)


def test_what_learns_nothing_stays_so() -> None:
    model = net()
    method = remembering(model)
    (-nn.functional.cross_entropy(model(samples()[0]), samples()[1])).backward()
    model[0].zero_grad(set_to_none=True)
    method.after_backward(around(model))
    assert [parameter.grad is None for parameter in model.parameters()] == [
        True,
        True,
        False,
        False,
    ]
    assert torch.allclose(flat([p.grad for p in model[2].parameters()]), torch.zeros(24), atol=1e-5)


def test_a_step_does_not_raise_the_loss_on_what_is_remembered() -> None:
    model, (x, y) = net(), samples()
    method = remembering(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    other_x, other_y = samples(6, 5)
    projected = 0
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(other_x), other_y).backward()
        before = [parameter.grad.clone() for parameter in model.parameters()]
        method.after_backward(around(model, optimizer))
        loss = nn.functional.cross_entropy(model(x), y).detach()
        changed = not torch.equal(flat(before), flat([p.grad for p in model.parameters()]))
        projected += changed
        optimizer.step()
        after = nn.functional.cross_entropy(model(x), y).detach()
        assert float(after) <= float(loss) + 1e-5
    assert projected


def test_nothing_is_projected_before_there_is_something_to_remember() -> None:
    model = net()
    model(samples()[0]).sum().backward()
    before = flat([p.grad for p in model.parameters()]).clone()
    build("agem").after_backward(around(model))
    assert torch.equal(flat([p.grad for p in model.parameters()]), before)


def test_state_round_trip_draws_on() -> None:
    model = net()
    method, again = remembering(model, 30, batch=4), build("agem", seed=5, batch=4)
    again.load_state(method.state(), model)
    for _ in range(3):
        found = []
        for one in (method, again):
            model.zero_grad()
            (-nn.functional.cross_entropy(model(samples()[0]), samples()[1])).backward()
            one.after_backward(around(model))
            found.append(flat([p.grad for p in model.parameters()]).clone())
        assert torch.equal(*found)


@pytest.mark.parametrize("name", ["buffer", "batch"])
def test_empty_memories_are_refused(name: str) -> None:
    _, config, problems = choose(METHODS, {"kind": "agem", name: 0}, "method")
    assert config is None
    assert f"{name} must be at least 1" in str(problems[0])
