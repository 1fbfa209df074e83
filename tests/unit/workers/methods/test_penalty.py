"""The quadratic penalty: its gradient by formula, and what it must leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.unit.workers.methods.contexts import around, build, data, net, samples
from tests.unit.workers.methods.test_parameters import COLUMN, ROW, grow, layer
from workers.contract import InputError
from workers.edits import Change
from workers.methods import METHODS
from workers.methods.penalty import QuadraticPenalty
from workers.moe.growth import surgery
from workers.parsing import choose
from workers.supervised.precision import MasterWeights, lower, precise

PENALTIES = sorted(k for k, method in METHODS.items() if issubclass(method, QuadraticPenalty))


def penalised(model: nn.Module, strength: float = 2.5) -> QuadraticPenalty:
    """A method that knows random importance and anchors."""
    method = QuadraticPenalty(QuadraticPenalty.Config(kind="x", strength=strength), 0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        importance = torch.rand(parameter.shape, generator=generator)
        anchor = torch.randn(parameter.shape, generator=generator)
        method.known.put(name, parameter, {"importance": importance, "anchor": anchor})
    return method


def test_its_gradient_is_that_of_the_formula() -> None:
    model = net()
    method = penalised(model)
    x = torch.randn(4, 3)
    model(x).square().sum().backward()
    method.after_backward(around(model))
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    penalty = sum(
        2.5 / 2 * (known["importance"] * (parameter - known["anchor"]).square()).sum()
        for _, parameter, known in method.known
    )
    (model(x).square().sum() + penalty).backward()
    for parameter, gradient in zip(model.parameters(), found, strict=True):
        assert torch.allclose(gradient, parameter.grad, rtol=1e-5, atol=1e-6)


def test_what_learns_nothing_is_not_pulled() -> None:
    model = net()
    method = penalised(model)
    model[0].requires_grad_(False)
    before = [parameter.clone() for parameter in model[0].parameters()]
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    method.after_backward(around(model, optimizer))
    optimizer.step()
    assert all(p.grad is None for p in model[0].parameters())
    assert all(torch.equal(p, q) for p, q in zip(model[0].parameters(), before, strict=True))


def test_growth_brings_no_importance_and_narrowing_moves_the_anchor_along() -> None:
    moe = layer()
    method = penalised(moe)
    away = {name: (p - known["anchor"]).detach().clone() for name, p, known in method.known}
    report, change = surgery.follow(moe, None, grow(4, reading="rescale"), torch.randn(32, 12))
    method.edited(around(moe, change=change), report)
    assert not any(name.startswith(("experts.2.", "experts.3.")) for name, _, _ in method.known)
    assert change.narrowed
    for name, (_, dim, kept) in change.narrowed.items():
        known = method.known.of(name)
        left = dict(moe.named_parameters())[name] - known["anchor"]
        assert torch.allclose(left, away[name].index_select(dim, kept), atol=1e-5)


def test_entries_drawn_anew_are_forgotten_and_not_pulled() -> None:
    model = net()
    method = penalised(model)
    before = {key: value.clone() for key, value in method.known.of("0.weight").items()}
    change = Change(cleared={"0.weight": (ROW, COLUMN), "2.bias": None})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    method.edited(around(model, change=change), None)
    known, new = method.known.of("0.weight"), torch.zeros(5, 3, dtype=torch.bool)
    new[1], new[:, 0] = True, True
    assert not known["importance"][new].any()
    assert torch.equal(known["anchor"][new], model[0].weight[new])
    assert all(torch.equal(known[key][~new], before[key][~new]) for key in before)
    assert torch.equal(method.known.of("2.bias")["anchor"], model[2].bias)


def test_the_master_weight_is_what_is_pulled() -> None:
    model = net()
    lower(model)
    optimizer = MasterWeights(torch.optim.SGD(model.parameters(), lr=1e-4))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
    weight = model[0].weight
    exact = precise(optimizer, weight)
    assert exact.dtype is torch.float32
    assert torch.equal(exact.bfloat16(), weight)
    assert not torch.equal(exact, weight.float())
    with torch.no_grad():
        weight[0] = 7.0  # as an edit writes it
    assert bool((precise(optimizer, weight)[0] == 7.0).all())


@pytest.mark.parametrize("kind", ["ewc", "mas"])
def test_a_model_that_diverged_is_told_with_the_cure(kind: str) -> None:
    model = net()
    with torch.no_grad():
        model[2].bias[0] = torch.nan
    with pytest.raises(InputError, match=r"diverged; lower method\.strength"):
        build(kind).end_stage(around(model, samples=data(*samples())))


@pytest.mark.parametrize("kind", PENALTIES)
def test_strengths_that_mean_nothing_are_refused(kind: str) -> None:
    for strength in (0.0, -1.0):
        _, config, problems = choose(METHODS, {"kind": kind, "strength": strength}, "method")
        assert config is None
        assert "strength must be positive" in str(problems[0])


def test_state_round_trip() -> None:
    model = net()
    method = penalised(model)
    again = build("mas")
    again.load_state(method.state(), model)
    before, after = method.state(), again.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
