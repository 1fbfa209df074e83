"""SI: the path integral over a quadratic, and what becomes of it at a task's end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.unit.workers.methods.contexts import around, build
from workers.contract import InputError
from workers.methods import METHODS
from workers.methods.penalty import QuadraticPenalty
from workers.parsing import choose

CURVATURE = torch.tensor([[4.0, 1.0, 0.25]])


def quadratic() -> nn.Linear:
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
    return model


def loss(model: nn.Linear) -> torch.Tensor:
    return (CURVATURE * model.weight.square()).sum() / 2


def train(method: QuadraticPenalty, model: nn.Linear, steps: int, stage: int = 0) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        context = around(model, optimizer, stage=stage)
        method.after_backward(context)
        optimizer.step()
        method.after_step(context)


def test_the_path_integral_is_each_parameter_s_share_of_the_fall() -> None:
    """Along the way of small steps, omega_k tends to a_k (theta_k^2 before - after) / 2."""
    method, model = build("si"), quadratic()
    before = model.weight.detach().clone()
    train(method, model, 500)
    fell = CURVATURE * (before.square() - model.weight.detach().square()) / 2
    path = method.known.of("weight")["path"]
    assert torch.allclose(path, fell, rtol=5e-3)
    # Exactly, step by step: theta <- (1 - lr a) theta, so omega = lr a^2 sum theta^2.
    a, rate = CURVATURE.double(), 1e-3
    left = (1 - rate * a) ** 2
    exact = rate * a.square() * before.double().square() * (1 - left**500) / (1 - left)
    assert torch.allclose(path.double(), exact, rtol=1e-4)


def test_a_model_that_diverged_is_told_at_the_next_task() -> None:
    """It ran on with parameters that are no numbers."""
    method, model = build("si"), quadratic()
    train(method, model, 3)
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"diverged; lower method\.strength"):
        train(method, model, 1, stage=1)


def test_a_task_s_end_makes_importance_of_it() -> None:
    method, model = build("si", damping=0.2), quadratic()
    before = model.weight.detach().clone()
    train(method, model, 50)
    path = method.known.of("weight")["path"].clone()
    after = model.weight.detach().clone()
    assert not method.known.of("weight")["importance"].any()
    train(method, model, 1, stage=1)
    known = method.known.of("weight")
    wanted = path / ((after - before).square() + 0.2)
    assert torch.allclose(known["importance"], wanted)
    assert torch.equal(known["anchor"], after)


def test_the_penalty_adds_nothing_to_the_path() -> None:
    weak, strong = build("si", strength=1e-6), build("si", strength=50.0)
    for method in (weak, strong):
        model = quadratic()
        train(method, model, 50)
        train(method, model, 1, stage=1)
        gradient = CURVATURE * (model.weight - 0)
        with torch.no_grad():
            model.weight.sub_(0.1)
        before = method.known.of("weight")["path"].clone()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        loss(model).backward()
        gradient = model.weight.grad.clone()
        context = around(model, optimizer, stage=1)
        method.after_backward(context)
        value = model.weight.detach().clone()
        optimizer.step()
        method.after_step(context)
        gained = method.known.of("weight")["path"] - before
        assert torch.allclose(gained, -gradient * (model.weight.detach() - value), atol=1e-7)


def test_ways_that_raised_the_loss_make_nothing_important() -> None:
    method, model = build("si"), quadratic()
    train(method, model, 3)
    method.known.of("weight")["path"].fill_(-1.0)
    train(method, model, 1, stage=1)
    assert not method.known.of("weight")["importance"].any()


def test_state_holds_the_stage() -> None:
    method, model = build("si"), quadratic()
    train(method, model, 5)
    again = build("si")
    again.load_state(method.state(), model)
    other = quadratic()
    other.load_state_dict(model.state_dict())
    again.known.load(method.known.state(), other)
    for one, its in ((method, model), (again, other)):
        train(one, its, 3)
        train(one, its, 3, stage=1)
    assert torch.equal(model.weight, other.weight)
    before, after = method.state(), again.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert int(before["stage"]) == 1


def test_agents_can_be_trained_with_it() -> None:
    assert "rl" in METHODS["si"].works_with
    own = {name for name in vars(METHODS["si"]) if not name.startswith("_")}
    assert own & {"training_data", "begin_stage", "extend_batch", "loss", "end_stage"} == set()


@pytest.mark.parametrize("damping", [0.0, -0.1])
def test_damping_is_positive(damping: float) -> None:
    _, config, problems = choose(METHODS, {"kind": "si", "damping": damping}, "method")
    assert config is None
    assert "damping must be positive" in str(problems[0])
