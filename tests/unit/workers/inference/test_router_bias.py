"""router_bias: only E numbers a layer move, by a loss without labels, and are forgotten again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.routed import INPUTS, Two, by_hand, subject
from workers.contract import InputError
from workers.inference import Turn
from workers.inference.router_bias import RouterBias

DENSE = {"kind": "dense"}


def prepared(model: nn.Module, settings: dict[str, Any], **changes: Any) -> RouterBias:
    policy = RouterBias(RouterBias.Config(**settings))
    policy.prepare(subject(model, **changes))
    return policy


def entropy(z: Tensor) -> Tensor:
    p = z.softmax(-1)
    return -(p * p.log()).sum(-1).mean()


def test_the_first_step_is_adam_s_on_the_gradient_of_the_entropy() -> None:
    model, x = Two(DENSE), torch.randn(16, INPUTS)
    delta = torch.zeros(2, 3, requires_grad=True)

    def shifted(d: Tensor) -> Tensor:
        hidden = by_hand(model.first, x, lambda r: (r + d[0]).softmax(-1)).tanh()
        return by_hand(model.last, hidden, lambda r: (r + d[1]).softmax(-1))

    (gradient,) = torch.autograd.grad(entropy(shifted(delta)), delta)
    policy = prepared(model, {"steps": 1, "lr": 0.1})
    with torch.inference_mode():
        found = policy.answer(model, x)
    assert torch.allclose(found, shifted(-0.1 * gradient.sign()), atol=1e-4)


def test_entropy_falls_and_parameters_stay() -> None:
    model, x = Two(DENSE), torch.randn(64, INPUTS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        plain, found = model(x), prepared(model, {"steps": 20}).answer(model, x)
    assert entropy(found) < entropy(plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_is_forgotten_where_a_part_begins() -> None:
    model, x = Two(DENSE), torch.randn(64, INPUTS)
    policy = prepared(model, {"layers": 1})
    first = policy.answer(model, x)
    assert list(policy.figures()) == ["delta/last"]
    assert policy.figures()["delta/last"] > 0
    assert not torch.equal(policy.answer(model, x), first), "it went on learning"
    policy.begin(1)
    assert torch.equal(policy.answer(model, x), first)


class Tokens(nn.Module):
    """Every position sees the sum of those before it, and of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, INPUTS)
        self.rest = Two(DENSE, last=5)
        self.eval()

    def forward(self, x_BS: Tensor) -> Tensor:
        y: Tensor = self.rest(self.table(x_BS).cumsum(1))
        return y


def test_a_position_is_answered_by_what_lies_before_it() -> None:
    torch.manual_seed(0)
    model, x = Tokens(), torch.randint(0, 5, (3, 10))
    policy = prepared(model, {"every": 4, "steps": 3}, kind="tokens")
    found = policy.answer(model, x)
    assert found.shape == (3, 10, 5)
    assert torch.allclose(found[:, :4], model(x)[:, :4], atol=1e-6), "nothing learnt yet"
    assert not torch.allclose(found[:, 4:], model(x)[:, 4:], atol=1e-6)
    other = x.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 5
    assert torch.allclose(policy.answer(model, other)[:, :6], found[:, :6], atol=1e-6)
    assert torch.allclose(policy.answer(model, x[1:2]), found[1:2], atol=1e-5), "one by one"


class Agent(nn.Module):
    """Two values from a routed layer: of the acting layer, or of one beside it."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.act, self.critic = Two(DENSE), Two(DENSE, last=1)
        self.apart = apart

    def value(self, x: Tensor) -> Tensor:
        found: Tensor = (self.critic(x) if self.apart else self.act(x)[:, :1]).squeeze(-1)
        return found


def turn(agent: Agent, over: list[bool]) -> Turn:
    x = torch.ones(2, INPUTS)
    return Turn(
        value=agent.value,
        bootstrap=lambda after: after[:, 0].detach(),
        before=x,
        after=2 * x,
        rewards=torch.tensor([3.0, 3.0]),
        over=torch.tensor(over),
        discount=0.9,
    )


def test_an_agent_s_values_become_consistent_and_an_episode_s_end_forgets() -> None:
    agent = Agent(apart=False)
    policy = prepared(agent, {"lr": 0.02}, kind="acts")
    policy.begin(2)

    def error() -> Tensor:
        with policy._in_force(), torch.no_grad():
            return (agent.value(torch.ones(2, INPUTS)) - (3.0 + 0.9 * 2.0)).square()

    before = error()
    with torch.inference_mode():
        for _ in range(10):
            policy.learn(turn(agent, [False, False]))
    assert bool((error() < before).all())
    policy.learn(turn(agent, [True, False]))
    for delta in policy.delta.values():
        if delta.abs().sum() > 0:
            assert not delta[0].any()
            assert delta[1].any()
    assert policy.figures()["delta/act.first"] > 0


def test_a_critic_apart_teaches_no_acting_layer() -> None:
    agent = Agent(apart=True)
    acting = {name: layer for name, layer in subject(agent).layers.items() if "act" in name}
    policy = prepared(agent, {}, kind="acts", layers=acting)
    policy.begin(2)
    with pytest.raises(InputError, match=r"do not depend on the routers of act\.first, act\.last"):
        policy.learn(turn(agent, [False, False]))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="lr must be above 0"):
        RouterBias.Config(lr=0.0)
    with pytest.raises(ValueError, match="at least 1"):
        RouterBias.Config(layers=0)
    with pytest.raises(InputError, match="needs outputs that are logits"):
        RouterBias(RouterBias.Config()).check(subject(Two(DENSE), logits=False))
