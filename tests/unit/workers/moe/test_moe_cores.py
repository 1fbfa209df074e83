"""Recurrent cores: sequences are answered as steps are, and nothing outlives an episode."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.test_actor_critic import LAYOUT, grow, short_observations
from workers.models import CORES, MODELS
from workers.models.actor_critic import ActorCritic
from workers.models.cores import Past
from workers.moe.growth import surgery
from workers.parsing import checked

B, T = 3, 9


def model(*, layout=None, **settings) -> ActorCritic:
    core = {"kind": "gru", "size": 10}
    section = {"kind": "actor_critic", "encoder": 16, "hidden": [12, 12], "core": core, **settings}
    cls, config = checked(MODELS, section)
    return cls(config, (12,), 5, 0, layout)


def episodes() -> tuple[torch.Tensor, Past]:
    generator = torch.Generator().manual_seed(0)
    begins = torch.rand(B, T, generator=generator) < 0.25
    begins[0] = False
    begins[1, 0] = True
    state = torch.randn(B, 10, generator=generator)
    return torch.randn(B, T, 12, generator=generator), Past(state, begins)


@pytest.mark.parametrize("kind", sorted(CORES))
def test_every_core_is_built_from_its_defaults_and_by_its_name_alone(kind):
    net = model(core=kind)
    assert net.config.core.kind == kind
    assert net(torch.rand(4, 12)).shape == (4, 5)
    assert net.initial_state(4).shape == (4, net.state_size)


@pytest.mark.parametrize("settings", [{}, {"separate": True}, {"layer": "linear"}, {"experts": 2}])
def test_a_sequence_is_answered_as_its_steps_are(settings):
    net = model(**settings).eval()
    x, past = episodes()
    with torch.no_grad():
        logits, values = net.answer(x, past)
        assert torch.equal(net(x, past), logits)
        assert torch.allclose(net.value(x, past=past), values)
        state = past.state
        for t in range(T):
            state = state * ~past.begins[:, t, None]
            stepped, state = net.step(x[:, t], state)
            assert torch.allclose(stepped, logits[:, t], atol=1e-6)
    assert values.shape == (B, T)
    assert (past.begins.any(), net.recurrent) == (True, True)


def test_a_state_reaches_the_steps_up_to_the_next_episode_and_no_further():
    net = model().double()
    x, past = episodes()
    begins = torch.zeros(B, T, dtype=torch.bool)
    begins[:, 5] = True
    state = past.state.double().requires_grad_()
    logits = net(x.double(), Past(state, begins))
    before = torch.autograd.grad(logits[:, 4].sum(), state, retain_graph=True)[0]
    after = torch.autograd.grad(logits[:, 5:].sum(), state, allow_unused=True)[0]
    assert before.abs().min() > 0
    assert after is None or not after.any()
    fresh = net(x[:, 5:].double(), Past(torch.zeros_like(state), begins[:, 5:]))
    assert torch.allclose(logits[:, 5:], fresh)


def test_an_observation_by_itself_is_the_first_of_an_episode():
    net = model()
    x = torch.rand(4, 12)
    assert torch.allclose(net(x), net.step(x, net.initial_state(4))[0], atol=1e-6)


def test_short_observations_go_through_sequences_as_dense_ones_do():
    compact, dense = model(layout=LAYOUT), model()
    short = short_observations(B * T).unflatten(0, (B, T))
    long = torch.from_numpy(LAYOUT.dense(short.flatten(0, 1).numpy())).unflatten(0, (B, T))
    past = episodes()[1]
    assert torch.allclose(compact(short, past), dense(long, past), atol=1e-5)


def test_growth_and_a_saved_architecture_leave_the_core_as_it_is():
    net = model(max_experts=2, separate=True)
    x, past = episodes()
    core = {name: tensor.clone() for name, tensor in net.core.state_dict().items()}
    before = net(x, past)
    surgery.apply(net, None, grow(2, initialiser="clone_split"), torch.rand(4, 12))
    assert torch.allclose(net(x, past), before, atol=1e-6)
    assert all(torch.equal(core[name], tensor) for name, tensor in net.core.state_dict().items())
    other = model(max_experts=2, separate=True)
    surgery.ensure_arch(other, surgery.arch(net))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x, past), net(x, past))


def test_a_model_without_core_has_the_parameters_it_always_had():
    names = [name for name, _ in model(core="none").named_parameters()]
    assert not any(name.startswith("core") for name in names)
    assert ActorCritic.Config().core.kind == "none"
