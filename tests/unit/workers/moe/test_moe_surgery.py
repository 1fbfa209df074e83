"""Growth surgery: what it adds, what it leaves alone, and that it is the same everywhere."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from workers.contract import InputError
from workers.edits import Cause, Grow
from workers.models import HEADS
from workers.models.classifier import Classifier
from workers.models.heads import MoEHead
from workers.moe import INITIALISERS
from workers.moe.experts import LinearExpert
from workers.moe.growth import surgery
from workers.moe.growth.schedules import Descending
from workers.moe.layers import MoELayer
from workers.moe.selectors import Dense, TopK

GROWING = [kind for kind in HEADS if kind != "mlp"]


def _edit(experts: int, **more) -> Grow:
    defaults = {"id": "e1", "stage": "s1", "after_interval": 0, "revision": 1, "seed": 7}
    cause = Cause(policy="test", trigger="test")
    return Grow(**{**defaults, **more}, experts=experts, cause=cause)


def _model(head: str = "moe", experts: int = 1, max_experts: int | None = 4, **layer_settings):
    layer = {"layer": MoELayer.Config(**layer_settings)} if layer_settings else {}
    sizes: Any = {"width": 24, "depth": 2} if head == "moe_blocks" else {"hidden": (24, 16)}
    config = HEADS[head].Config(**sizes, **layer)
    config = Classifier.Config(experts=experts, max_experts=max_experts, head=config)
    return Classifier(config, (1, 3, 4), 3, seed=2)


def _x(n: int = 32) -> torch.Tensor:
    return torch.randn(n, 1, 3, 4, generator=torch.Generator().manual_seed(0))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(_x()).square().mean().backward()
        optimizer.step()


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(model.named_parameters()), lr=1e-2)


@pytest.mark.parametrize("head", GROWING)
def test_growth_adds_and_is_idempotent_and_equal_on_replicas(head: str) -> None:
    model = _model(head)
    optimizer = _adam(model)
    _train(model, optimizer)
    replica = copy.deepcopy(model)
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = surgery.apply(model, optimizer, _edit(3), _x())
    assert {layer.experts for layer in report.after.layers.values()} == {3}
    assert report.after.parameters > report.before.parameters
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], old[name]) for name in old)
    torch.manual_seed(99)
    assert surgery.apply(replica, None, _edit(3), None).fingerprint == report.fingerprint
    again = surgery.apply(model, optimizer, _edit(3), _x())
    assert again.fingerprint == report.fingerprint
    assert again.parents == {}
    assert again.probe_change == 0
    other = surgery.apply(_model(head), None, _edit(3, seed=8), None)
    assert other.fingerprint != surgery.apply(_model(head), None, _edit(3), None).fingerprint
    _train(model, optimizer)


@pytest.mark.parametrize("head", GROWING)
@pytest.mark.parametrize("start", [1, 2])
def test_arch_round_trip_grows_and_shrinks(head: str, start: int) -> None:
    small, big = _model(head, start), _model(head, start)
    for n in (3, 4):
        surgery.apply(big, None, _edit(n, seed=n), None)
    for source, target in ((big, _model(head, start)), (small, big), (small, small)):
        state, want = source.state_dict(), surgery.fingerprint(source)
        surgery.ensure_arch(target, json.loads(json.dumps(surgery.arch(source))))
        target.load_state_dict(state, strict=True)
        assert surgery.fingerprint(target) == want
        assert torch.equal(target(_x()), source(_x()))
    report = surgery.apply(big, None, _edit(3, seed=3), None)
    grown = _model(head, start)
    assert surgery.apply(grown, None, _edit(3, seed=3), None).fingerprint == report.fingerprint


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("head", ["moe", "big_moe"])
def test_clone_split_is_exact(head: str, temperature: float) -> None:
    model = _model(head, experts=2, max_experts=4, selector=Dense.Config(temperature=temperature))
    report = surgery.apply(model, None, _edit(7, initialiser="clone_split"), _x())
    assert report.probe_change < 1e-5
    assert all(parents == [0, 1, 0, 1, 0] for parents in report.parents.values())
    births = surgery.arch(model)[next(iter(report.parents))]["experts"]
    assert births[0] == births[0] | {"id": 0, "birth": None, "parent": None}
    assert births[3] == births[3] | {"id": 3, "birth": "s1", "parent": 1}


def test_clone_noise_parts_a_little() -> None:
    report = surgery.apply(_model(), None, _edit(2, initialiser="clone_noise"), _x())
    assert 0 < report.probe_change < 1e-2


def test_random_and_zero_out_move_the_output() -> None:
    for rule in ("random", "zero_out"):
        assert surgery.apply(_model(), None, _edit(2, initialiser=rule), _x()).probe_change > 1e-2
    model = _model()
    surgery.apply(model, None, _edit(2, initialiser="zero_out"), None)
    expert = model.head.layers[0].expert(1)
    assert not expert.down.weight.any()
    assert expert.up.weight.any()


def test_logit_offset_starts_unnoticed_and_is_annealed_through_a_restart() -> None:
    model = _model()
    report = surgery.apply(model, None, _edit(2, initialiser="logit_offset"), _x())
    assert report.probe_change < 1e-3
    router = model.head.layers[0].router
    assert router.offset.tolist() == [0, -10]
    model.eval()
    model(_x())
    assert router.offset.tolist() == [0, -10]
    model.train()
    for _ in range(100):
        model(_x(1))
    restored = _model()
    surgery.ensure_arch(restored, surgery.arch(model))
    restored.load_state_dict(model.state_dict())
    for _ in range(950):
        restored(_x(1))
    assert model.head.layers[0].router.offset[1].item() == pytest.approx(-9, abs=1e-3)
    assert restored.head.layers[0].router.offset.tolist() == [0, 0]


@pytest.mark.parametrize("rule", sorted(set(INITIALISERS) - {"worst_served", "unserved"}))
@pytest.mark.parametrize("expert", [None, LinearExpert.Config()])
@pytest.mark.parametrize("selector", [Dense.Config(), TopK.Config(k=2)])
def test_every_initialiser_grows_every_kind_of_layer(rule, expert, selector) -> None:
    settings = {"selector": selector} | ({"expert": expert} if expert else {})
    model = _model(**settings)
    report = surgery.apply(model, None, _edit(4, initialiser=rule), _x())
    assert {layer.experts for layer in report.after.layers.values()} == {4}
    assert model(_x()).isfinite().all()


@pytest.mark.parametrize("steps", [(2,), (2, 3, 4), (4,)])
def test_plasticity_injection_changes_nothing_at_the_event(steps) -> None:
    model = _model("plasticity_injection")
    optimizer = _adam(model)
    _train(model, optimizer)
    for n in steps:
        assert surgery.apply(model, optimizer, _edit(n), _x()).probe_change == 0
        before = {n: p.detach().clone() for n, p in model.head.named_parameters()}
        _train(model, optimizer)
        moved = {
            name.rpartition(".layers")[0]
            for name, p in model.head.named_parameters()
            if not torch.equal(p, before[name])
        }
        assert moved == {f"heads.{n - 1}"}
    assert len(model.head.copies) == steps[-1] - 1


def test_baselines_count_in_units_of_the_start() -> None:
    model = _model("plasticity_injection", experts=2)
    surgery.apply(model, None, _edit(4), None)
    assert len(model.head.copies) == 1
    net = _model("progressive_net", experts=2)
    surgery.apply(net, None, _edit(4), None)
    assert list(net.head.columns) == ["0", "1"]


def test_progressive_net_trains_only_its_last_column() -> None:
    model = _model("progressive_net")
    surgery.apply(model, None, _edit(3), None)
    trained = {n.split(".")[1] for n, p in model.head.named_parameters() if p.requires_grad}
    assert trained == {"2"}
    model(_x()).sum().backward()
    assert model.head.columns["2"].scales[0].grad is not None


def test_expanding_mlp_has_its_share_and_ends_as_the_dense_head() -> None:
    model = _model("expanding_mlp")
    assert surgery.shape(model).layers["head"].widths == (6, 4)
    surgery.apply(model, None, _edit(4), None)
    assert surgery.shape(model).layers["head"].widths == (24, 16)
    assert surgery.shape(model).parameters == surgery.shape(_model("mlp")).parameters


def test_schedule_gives_each_layer_its_share() -> None:
    config = MoEHead.Config(hidden=(32, 32, 32), schedule=Descending.Config())
    head = MoEHead(config, 32, 10, experts=2, max_experts=8)
    assert [part.experts for part in surgery.shape(head).layers.values()] == [2, 2, 1]
    widths = [part.widths[0] for part in surgery.shape(head).layers.values()]
    report = surgery.apply(head, None, _edit(8), torch.randn(4, 32))
    assert [part.experts for part in report.after.layers.values()] == [8, 5, 1]
    assert [part.widths[0] for part in report.after.layers.values()] == widths
    assert set(report.parents) == {"layers.0", "layers.1"}


@pytest.mark.parametrize("make", [_adam, lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9)])
def test_optimizer_keeps_old_state_bit_for_bit(make) -> None:
    model = _model(experts=2)
    optimizer = make(model)
    _train(model, optimizer)
    old = {
        name: {k: torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()}
        for name, p in model.named_parameters()
    }
    surgery.apply(model, optimizer, _edit(3), None)
    for name, p in model.named_parameters():
        assert (p in optimizer.state) == (name in old)
        for key, value in old.get(name, {}).items():
            assert torch.equal(torch.as_tensor(optimizer.state[p][key]), value)
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.param_groups[0].get("param_names", names) == names
    before = model.head.layers[0].expert(2).up.weight.detach().clone()
    _train(model, optimizer)
    assert not torch.equal(model.head.layers[0].expert(2).up.weight, before)


def test_optimizer_reset_drops_all_state_also_of_static_models() -> None:
    for head in ("moe", "mlp"):
        model = _model(head)
        optimizer = _adam(model)
        _train(model, optimizer)
        surgery.apply(model, optimizer, _edit(2, optimizer="keep"), None)
        assert optimizer.state
        surgery.apply(model, optimizer, _edit(3, optimizer="reset"), None)
        assert not optimizer.state
        _train(model, optimizer)


def test_rescale_keeps_the_budget_and_most_of_the_function() -> None:
    model = _model(max_experts=None)
    optimizer = _adam(model)
    _train(model, optimizer, 20)
    before = model(_x()).detach()
    kept = {name: p for name, p in model.named_parameters() if "expert" not in name}
    report = surgery.apply(
        model, optimizer, _edit(2, reading="rescale", initialiser="clone_split"), _x(256)
    )
    for name, layer in report.after.layers.items():
        was = report.before.layers[name]
        assert layer.widths[0] < was.widths[0]
        assert set(layer.widths) == {layer.widths[0]}
        assert layer.parameters <= 1.1 * was.parameters
    spread = before.std()
    assert (model(_x()) - before).abs().mean() < 0.5 * spread
    now = dict(model.named_parameters())
    assert all(now[name] is p for name, p in kept.items())
    up = model.head.layers[0].expert(0).up.weight
    assert optimizer.state[up]["exp_avg"].shape == up.shape
    assert set(optimizer.state) <= set(model.parameters())
    _train(model, optimizer)
    restored = _model(max_experts=None)
    surgery.ensure_arch(restored, surgery.arch(model))
    restored.load_state_dict(model.state_dict())
    one, two = (
        surgery.apply(m, None, _edit(3, reading="rescale"), _x()) for m in (model, restored)
    )
    assert one.fingerprint == two.fingerprint


def test_rescale_to_the_same_width_is_exact() -> None:
    layer = MoELayer(MoELayer.Config(), 6, 20, 1, None, seed=0)
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    want = layer(x)
    expert = layer.expert(0)
    kept = expert.narrow(expert.width, x)
    assert {name: (dim, units.tolist()) for name, (dim, units) in kept.items()} == {
        "up.weight": (0, list(range(expert.width))),
        "up.bias": (0, list(range(expert.width))),
        "down.weight": (1, list(range(expert.width))),
    }
    assert (layer(x) - want).abs().max() < 1e-2 * want.abs().max()


@pytest.mark.parametrize(
    ("model", "edit", "probe", "words"),
    [
        (_model(experts=3), {"experts": 2}, None, "growth only adds"),
        (
            _model(),
            {"experts": 2, "initialiser": "nice"},
            None,
            "unknown name 'nice'; allowed: clone",
        ),
        (_model(), {"experts": 2, "reading": "rescale"}, None, "give a probe"),
        (_model("big_moe"), {"experts": 2, "reading": "rescale"}, _x(), "use 'unmask'"),
        (
            _model(expert=LinearExpert.Config()),
            {"experts": 2, "reading": "rescale"},
            _x(),
            "linear",
        ),
        (
            _model(max_experts=None),
            {"experts": 20, "reading": "rescale"},
            _x(),
            "no hidden width fits",
        ),
    ],
)
def test_impossible_edits_say_why_and_change_nothing(model, edit, probe, words) -> None:
    before = surgery.fingerprint(model)
    with pytest.raises(InputError, match=words):
        surgery.apply(model, None, _edit(**edit), probe)
    assert surgery.fingerprint(model) == before


def test_fingerprint_sees_weights_frozen_set_and_architecture() -> None:
    model = _model()
    seen = {surgery.fingerprint(model)}
    with torch.no_grad():
        next(model.parameters())[0] += 1e-7
    seen.add(surgery.fingerprint(model))
    next(model.parameters()).requires_grad_(False)
    seen.add(surgery.fingerprint(model))
    surgery.apply(model, None, _edit(2), None)
    seen.add(surgery.fingerprint(model))
    assert len(seen) == 4


def test_frozen_expert_stays_frozen_through_arch() -> None:
    model = _model(experts=2)
    model.head.layers[0].expert(1).requires_grad_(False)
    restored = _model()
    surgery.ensure_arch(restored, surgery.arch(model))
    restored.load_state_dict(model.state_dict())
    assert surgery.fingerprint(restored) == surgery.fingerprint(model)


def test_any_module_with_growable_parts_and_its_own_forward() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = MoELayer(MoELayer.Config(), 4, 12, 1, 2, seed=1)
            self.value = nn.Linear(4, 1)

    model = Pair().eval()
    model.policy.train()
    probe = torch.randn(5, 2, 4)
    report = surgery.apply(model, None, _edit(2), probe, forward=lambda x: model.policy(x))
    assert report.probe_change > 0
    assert report.parents == {"policy": [None]}
    assert (model.training, model.policy.training, model.value.training) == (False, True, False)
    saved = surgery.arch(model)
    with pytest.raises(InputError, match="growable layers"):
        surgery.ensure_arch(model, {})
    del model.policy
    surgery.ensure_arch(model, saved)


def test_damaged_architecture_is_refused() -> None:
    model = _model()
    arch = surgery.arch(model)
    arch["head.layers.0"]["experts"][0]["id"] = 5
    with pytest.raises(InputError, match="damaged"):
        surgery.ensure_arch(model, arch)


def test_growth_of_named_layers_leaves_the_others_as_they_are() -> None:
    model = _model()
    first, second = surgery.shape(model).layers
    report = surgery.apply(model, None, _edit(3, layers=(second,)), None)
    assert {name: layer.experts for name, layer in report.after.layers.items()} == {
        first: 1,
        second: 3,
    }
    with pytest.raises(InputError, match="growth of layer 'nowhere'"):
        surgery.apply(model, None, _edit(4, layers=("nowhere",)), None)


def test_an_initialiser_takes_its_settings_from_the_edit() -> None:
    loud, quiet = (
        surgery.apply(
            _model(), None, _edit(2, initialiser={"kind": "clone_noise", "scale": scale}), _x()
        )
        for scale in (1.0, 0.0)
    )
    assert quiet.probe_change < 1e-5 < loud.probe_change


@pytest.mark.parametrize(
    ("rule", "probe"),
    [("worst_served", True), ("unserved", True), ("worst_served", False), ("clone_useful", False)],
)
def test_an_initialiser_that_cannot_be_leaves_the_layer_alone(rule: str, probe: bool) -> None:
    model = _model()
    before = surgery.fingerprint(model)
    with pytest.raises(InputError, match=r"another initialiser|clone_noise"):
        surgery.apply(model, None, _edit(4, initialiser=rule), _x() if probe else None)
    assert surgery.fingerprint(model) == before
