"""Layers of the table beside the plain mixture, and how schedules move capacity with depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workers.contract import InputError
from workers.edits import Cause, Grow
from workers.models.heads import BigMoE, MoEHead
from workers.moe import LAYERS, SCHEDULES
from workers.moe.experts import Bottleneck, LinearExpert
from workers.moe.growth import surgery
from workers.moe.growth.initialisers import Random
from workers.moe.layers import ChainLayer, LinearLayer, MoELayer, ResidualLayer
from workers.moe.losses import Balance
from workers.moe.routed import observing, routed_layers
from workers.moe.selectors import Dense, TopK
from workers.moe.stepping import take_losses


def _x(tokens: int = 12, inputs: int = 20) -> torch.Tensor:
    return torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(3))


def _grow(experts: int, **more) -> Grow:
    cause = Cause(policy="test", trigger="test")
    return Grow(
        id="e",
        stage="s",
        after_interval=0,
        revision=1,
        experts=experts,
        seed=7,
        cause=cause,
        **more,
    )


# ---------------------------------------------------------------- chain


def test_a_chain_of_one_round_is_the_plain_layer_with_a_residual() -> None:
    chain = ChainLayer(ChainLayer.Config(rounds=1), 20, 20, 3, None, 4)
    plain = MoELayer(MoELayer.Config(), 20, 20, 3, None, 4)
    assert list(chain.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(chain(_x()), _x() + plain(_x()))


@pytest.mark.parametrize("selector", [Dense.Config(), TopK.Config(k=2)])
def test_rounds_share_experts_and_have_routers_of_their_own(selector) -> None:
    chain = ChainLayer(
        ChainLayer.Config(rounds=3, selector=selector, losses=(Balance.Config(weight=1.0),)),
        20,
        20,
        4,
    )
    plain = MoELayer(MoELayer.Config(selector=selector), 20, 20, 4)
    routers = 3 * sum(p.numel() for p in plain.router.parameters())
    experts = sum(p.numel() for p in plain.experts.parameters())
    assert sum(p.numel() for p in chain.parameters()) == routers + experts
    with observing(chain) as seen:
        y = chain(_x())
    x = _x()
    for routed, router in zip(seen[""], chain.routers, strict=True):
        torch.testing.assert_close(routed.x, x)
        assert routed.router is router
        outputs = torch.stack([expert(x) for expert in chain.experts.values()], 1)
        x = (x + (routed.weights.unsqueeze(-1) * outputs).sum(1)).detach()
    torch.testing.assert_close(y, x)
    own = Balance(Balance.Config(weight=1.0))
    (loss,) = take_losses({"": chain}).values()
    torch.testing.assert_close(loss.detach(), torch.stack([own.loss(r) for r in seen[""]]).mean())


@pytest.mark.parametrize("rule", ["random", "clone_split", "logit_offset"])
def test_a_chain_grows_with_all_its_routers_and_is_rebuilt(rule) -> None:
    chain, fresh = (ChainLayer(ChainLayer.Config(), 20, 20, 2, 4, seed) for seed in (4, 9))
    report = surgery.apply(chain, None, _grow(4, initialiser=rule), _x())
    if rule == "clone_split":
        assert report.probe_change < 1e-5
    assert [len(router.rows) for router in chain.routers] == [4, 4]
    surgery.ensure_arch(fresh, surgery.arch(chain))
    fresh.load_state_dict(chain.state_dict())
    assert surgery.fingerprint(fresh) == surgery.fingerprint(chain)
    assert torch.equal(fresh.eval()(_x()), chain.eval()(_x()))


def test_a_chain_between_unequal_widths_is_refused() -> None:
    with pytest.raises(InputError, match="8 inputs and 20 outputs"):
        ChainLayer(ChainLayer.Config(), 8, 20)


# ---------------------------------------------------------------- linear and residual


def test_a_linear_layer_is_torch_s_and_can_be_drawn_orthogonal() -> None:
    layer = LinearLayer(LinearLayer.Config(), 20, 20, seed=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        torch.testing.assert_close(layer.weight, nn.Linear(20, 20).weight, rtol=0, atol=0)
    assert surgery.shape(layer).layers == {}
    layer.draw_orthogonal(2.0)
    torch.testing.assert_close(
        layer.weight @ layer.weight.t(), 4.0 * torch.eye(20), atol=1e-5, rtol=0
    )
    assert not layer.bias.any()


@pytest.mark.parametrize(("inputs", "outputs"), [(20, 20), (8, 20)])
def test_a_residual_layer_adds_its_input(inputs, outputs) -> None:
    layer = ResidualLayer(ResidualLayer.Config(norm=False), inputs, outputs, 2)
    x = _x(inputs=inputs)
    torch.testing.assert_close(layer(x), layer.shortcut(x) + layer.inner(x))
    assert (inputs == outputs) == isinstance(layer.shortcut, nn.Identity)
    assert list(routed_layers(layer)) == ["inner"]
    normal = ResidualLayer(ResidualLayer.Config(), inputs, outputs, 2)(x)
    torch.testing.assert_close(normal.mean(-1), torch.zeros(12), atol=1e-5, rtol=0)
    assert surgery.apply(layer, None, _grow(3), x).parents == {"inner": [None]}


def test_a_head_of_heads_takes_routing_only() -> None:
    layer = MoELayer.Config(selector=TopK.Config(k=2))
    head = BigMoE(BigMoE.Config(hidden=(8,), layer=layer), 6, 3, experts=3)
    assert list(head.state_dict())[-1] == "experts.2.layers.1.bias"
    with pytest.raises(ValueError, match="say nothing of expert"):
        BigMoE.Config(layer=MoELayer.Config(expert=LinearExpert.Config()))
    with pytest.raises(ValueError, match="kind moe"):
        BigMoE.Config(layer=LAYERS["linear"].Config())


# ---------------------------------------------------------------- schedules


def _head(schedule: str, hidden=(64, 64, 64, 64), experts: int = 8, **settings) -> MoEHead:
    layer = {name: settings.pop(name) for name in ("expert",) if name in settings}
    config = MoEHead.Config(
        hidden=hidden,
        schedule=SCHEDULES[schedule].Config(**settings),
        layer=MoELayer.Config(**layer),
    )
    return MoEHead(config, 64, 10, experts=experts)


VARYING = [kind for kind in SCHEDULES if kind != "constant"]
NEEDED = {"profile": {"weights": (3.0, 1.0, 2.0, 0.0)}}
"""What a schedule cannot do without."""


@pytest.mark.parametrize("schedule", VARYING)
def test_capacity_moves_with_depth_at_the_budget_of_the_whole_head(schedule) -> None:
    constant = surgery.shape(_head("constant"))
    found = surgery.shape(_head(schedule, **NEEDED.get(schedule, {})))
    experts = [layer.experts for layer in found.layers.values()]
    assert len({width for layer in found.layers.values() for width in layer.widths}) == 1
    dense = 4 * 64 * 64
    weights = sum(layer.experts * (128 * layer.widths[0] + 64) for layer in found.layers.values())
    assert weights <= dense < weights + sum(experts) * 128, "the largest width that fits"
    assert found.parameters == pytest.approx(constant.parameters, rel=0.15)
    parameters = [layer.parameters for layer in found.layers.values()]
    order = sorted(range(4), key=experts.__getitem__)
    assert [parameters[i] for i in order] == sorted(parameters)
    assert (len(set(parameters)) == 1) == (schedule == "uniform")


def test_a_budget_for_each_layer_is_there_to_be_asked_for() -> None:
    found = surgery.shape(_head("descending", budget="layer")).layers.values()
    assert [layer.experts for layer in found] == [8, 6, 3, 1]
    assert len({layer.widths[0] for layer in found}) > 1
    spread = [layer.parameters for layer in found]
    assert max(spread) < 1.25 * min(spread)


def test_a_width_of_its_own_and_linear_experts_pay_no_heed_to_budgets() -> None:
    head = _head("descending", expert=Bottleneck.Config(width=3))
    assert {w for layer in surgery.shape(head).layers.values() for w in layer.widths} == {3}
    linear = surgery.shape(_head("descending", expert=LinearExpert.Config())).layers.values()
    assert [layer.parameters // (64 * 64) for layer in linear] == [8, 6, 3, 1]


def test_uniform_is_midway_and_constant_the_number_asked_for() -> None:
    for schedule, wanted in (("uniform", 4), ("constant", 8)):
        shape = surgery.shape(_head(schedule))
        assert [layer.experts for layer in shape.layers.values()] == [wanted] * 4
    assert MoEHead.Config().schedule.kind == "constant"
    cls = SCHEDULES["uniform"]
    assert cls(cls.Config(minimum=4)).count(0, 3, 8) == 6


@pytest.mark.parametrize("schedule", ["pyramid_up", "pyramid_down"])
def test_a_pyramid_of_two_layers_is_refused_at_construction(schedule) -> None:
    with pytest.raises(InputError, match=r"at least 3 routed layers and the head has 2.*constant"):
        _head(schedule, hidden=(64, 64))


@pytest.mark.parametrize("schedule", ["ascending", "wave_up"])
def test_a_slope_of_one_layer_is_refused_at_construction(schedule) -> None:
    with pytest.raises(InputError, match="at least 2 routed layers and the head has 1"):
        _head(schedule, hidden=(64,))
    assert len(surgery.shape(_head("constant", hidden=(64,))).layers) == 1


def test_rescaled_experts_keep_one_width_over_depth() -> None:
    config = MoEHead.Config(hidden=(64, 64, 64), schedule=SCHEDULES["descending"].Config())
    head = MoEHead(config, 64, 10, experts=2)
    report = surgery.apply(head, None, _grow(6, reading="rescale"), _x(99, 64))
    shapes = report.after.layers.values()
    assert [layer.experts for layer in shapes] == [6, 4, 1]
    assert len({width for layer in shapes for width in layer.widths}) <= 2


# ---------------------------------------------------------------- initialisers with settings


def test_initialisers_are_named_with_settings_and_from_outside() -> None:
    assert surgery.initialiser("clone_noise").config.scale == 0.01
    assert surgery.initialiser({"kind": "clone_noise", "scale": 0.5}).config.scale == 0.5
    name = "tests.unit.workers.moe.test_moe_layers:Halved"
    assert type(surgery.initialiser({"kind": name})).__name__ == "Halved"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "nice"}, "unknown name 'nice'; allowed: clone"),
        ({"scale": 1.0}, "kind: got None"),
        ({"kind": "clone_noise", "scales": 1.0}, "scales.*allowed settings of clone_noise: kind"),
        ({"kind": "logit_offset", "steps": 0}, "steps at least 1"),
    ],
)
def test_impossible_initialisers_say_what_is_allowed(settings, words) -> None:
    with pytest.raises(InputError, match=words):
        surgery.initialiser(settings)


class Halved(Random):
    """An initialiser from outside."""
