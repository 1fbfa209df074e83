"""The actor-critic: shapes, draws from the seed alone, growth of its hidden layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workers.compact_layout import Compact
from workers.contract import InputError
from workers.edits import Cause, Grow
from workers.models.actor_critic import ActorCritic
from workers.moe import LAYERS
from workers.moe.growth import surgery


def model(shape=(12,), actions=5, seed=0, **settings) -> ActorCritic:
    return ActorCritic(ActorCritic.Config(**settings), shape, actions, seed)


def grow(experts: int, **settings) -> Grow:
    cause = Cause(policy="test", trigger="test")
    return Grow(
        id="e1",
        stage="s",
        after_interval=1,
        revision=1,
        experts=experts,
        seed=7,
        cause=cause,
        **settings,
    )


@pytest.mark.parametrize("shape", [(12,), (63, 63, 3), (130, 110, 3)])
def test_vectors_and_images_give_logits_and_values(shape):
    net = model(shape)
    x = torch.rand(3, *shape)
    features = net.embed(x)
    assert features.shape == (3, 64)
    assert net.logits(features).shape == (3, 5)
    assert net.value(x, features).shape == (3,)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = model(seed=4).state_dict()
    torch.manual_seed(2)
    second, other = model(seed=4).state_dict(), model(seed=5).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["actor.weight"], other["actor.weight"])


def test_the_untrained_policy_is_nearly_uniform():
    probabilities = model().forward(torch.rand(64, 12)).softmax(-1)
    assert torch.allclose(probabilities, torch.full_like(probabilities, 0.2), atol=0.01)


def test_only_hidden_layers_grow_and_old_parameters_keep_name_and_value():
    net = model(experts=1, max_experts=2)
    before = {name: p.clone() for name, p in net.named_parameters()}
    report = surgery.apply(net, None, grow(2), None)
    after = dict(net.named_parameters())
    assert set(report.after.layers) == {"layers.0", "layers.1"}
    assert [layer.experts for layer in report.after.layers.values()] == [2, 2]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name.split(".")[0] for name in set(after) - set(before)} == {"layers"}


def test_a_grown_model_is_rebuilt_from_its_architecture():
    net = model(max_experts=3)
    surgery.apply(net, None, grow(3), None)
    other = model(max_experts=3, seed=9)
    surgery.ensure_arch(other, surgery.arch(net))
    other.load_state_dict(net.state_dict())
    x = torch.rand(4, 12)
    assert torch.equal(net(x), other(x))
    assert surgery.fingerprint(net) == surgery.fingerprint(other)


def test_a_clone_splits_without_changing_the_policy():
    net = model(max_experts=2)
    x = torch.rand(16, 12)
    before = net(x)
    surgery.apply(net, None, grow(2, initialiser="clone_split"), None)
    assert torch.allclose(net(x), before, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"experts": 0}, {"experts": 3, "max_experts": 2}, {"hidden": ()}, {"encoder": 0}],
)
def test_impossible_sizes_are_refused(settings):
    with pytest.raises(ValueError, match="must be"):
        ActorCritic.Config(**settings)


def test_images_too_small_for_the_encoder_are_refused():
    with pytest.raises(InputError, match="at least 27"):
        model((20, 64, 3))


LAYOUT = Compact(ones=9, scalars=3, slots=4, usual=(0, 3), derived=((~0, ~3), (4, ~3)))


def short_observations(batch: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    codes = [rng.choice(np.arange(-1, 11), 4, replace=False) for _ in range(batch)]
    bits = rng.random((batch, 3)).astype(np.float32).view(np.int16)
    return torch.from_numpy(np.concatenate([np.array(codes, np.int16), bits], 1))


def of_layout(layout: Compact | None, **settings) -> ActorCritic:
    return ActorCritic(ActorCritic.Config(encoder=16, **settings), (12,), 5, 0, layout)


@pytest.mark.parametrize("separate", [False, True])
def test_the_form_of_observations_changes_neither_parameters_nor_answers_nor_learning(separate):
    compact, dense = (of_layout(layout, separate=separate) for layout in (LAYOUT, None))
    state = compact.state_dict()
    assert list(state) == list(dense.state_dict())
    assert all(torch.equal(state[name], value) for name, value in dense.state_dict().items())
    short = short_observations(32)
    long = torch.from_numpy(LAYOUT.dense(short.numpy()))
    optimizers = [torch.optim.Adam(net.parameters(), fused=True) for net in (compact, dense)]
    for _ in range(3):
        answers = []
        for net, x, optimizer in zip((compact, dense), (short, long), optimizers, strict=True):
            answer = torch.cat([net(x), net.value(x).unsqueeze(1)], 1)
            optimizer.zero_grad()
            answer.pow(2).sum().backward()
            optimizer.step()
            answers.append(answer.detach())
        assert torch.allclose(*answers, atol=1e-4)
    for (name, ours), theirs in zip(compact.named_parameters(), dense.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4), name
    assert torch.allclose(compact(long), compact(short), atol=1e-5)


def test_a_dense_trunk_does_not_grow_and_a_separate_critic_does():
    assert surgery.shape(model(layer=LAYERS["linear"].Config())).layers == {}
    net = model(max_experts=2, separate=True)
    report = surgery.apply(net, None, grow(2), None)
    assert set(report.after.layers) == {
        "layers.0",
        "layers.1",
        "critic.layers.0",
        "critic.layers.1",
    }


@pytest.mark.parametrize("separate", [False, True])
def test_following_the_scale_of_returns_changes_no_value(separate):
    net, x = model(normalise_values=True, separate=separate), torch.rand(8, 12)
    before = net.value(x)
    returns = 50.0 + 7.0 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for _ in range(200):
        net.follow(returns.mean(), (returns**2).mean(), 0.1)
    assert torch.allclose(net.value(x), before, atol=1e-3)
    scaled = net.scale(returns)
    assert abs(float(scaled.mean())) < 0.05
    assert abs(float(scaled.std()) - 1.0) < 0.05


def test_bytes_and_floats_of_an_image_are_the_same_to_the_model():
    net = model((63, 63, 3))
    image = torch.randint(0, 256, (2, 63, 63, 3), dtype=torch.uint8)
    assert torch.allclose(net(image), net(image.float() / 255.0), atol=1e-6)
