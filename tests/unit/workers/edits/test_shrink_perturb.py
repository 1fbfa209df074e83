"""Shrink and perturb, and resets: values, the architecture they are drawn for, the optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.workers.methods.steps import DENSE, ROUTED, classifier
from tests.unit.workers.supervised import loop
from workers.contract import InputError
from workers.edits import Cause, Prune, Reset, ShrinkPerturb
from workers.moe.growth import surgery

FIELDS: dict[str, Any] = {
    "id": "e",
    "stage": "s",
    "after_interval": 0,
    "revision": 1,
    "seed": 7,
    "cause": Cause(policy="p", trigger="t"),
}
HEADED = {**DENSE, "backbone": {"kind": "mlp", "hidden": [8]}}


def stepped(model: Any) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        model(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("config", [HEADED, ROUTED], ids=["dense", "routed"])
def test_every_parameter_is_shrunk_and_gets_its_share_of_an_untrained_one(config: Any) -> None:
    model = classifier(**config)
    optimizer = stepped(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    edit = ShrinkPerturb(**FIELDS, shrink=0.4, perturb=0.3)
    surgery.apply(model, optimizer, edit, None)
    fresh = dict(model.untrained(7).named_parameters())
    for name, parameter in model.named_parameters():
        wanted = 0.4 * before[name] + 0.3 * fresh[name]
        assert torch.allclose(parameter, wanted, atol=1e-7), name
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[name])


def test_an_untrained_model_is_the_one_that_this_seed_builds() -> None:
    model = classifier(seed=3, **HEADED)
    stepped(model)
    again, other = classifier(seed=11, **HEADED), model.untrained(11)
    assert all(torch.equal(v, other.state_dict()[n]) for n, v in again.state_dict().items())


def grown() -> Any:
    """Experts 0, 2 and 3 of 4."""
    model = classifier(**ROUTED)
    surgery.apply(model, None, loop.grow(4, 1), torch.randn(8, 6))
    surgery.apply(model, None, Prune(**FIELDS, experts={"head.layers.0": (1,)}), None)
    return model


def test_a_reset_draws_the_present_architecture_anew() -> None:
    model = grown()
    optimizer = stepped(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = surgery.apply(model, optimizer, Reset(**FIELDS), torch.randn(8, 6))
    assert report.before == report.after
    assert not optimizer.state, "an optimizer that knows nothing"
    named = dict(model.named_parameters())
    assert list(named) == list(before)
    assert not any(torch.equal(named[name], value) for name, value in before.items())
    ups = [expert.up.weight for expert in model.head.layers[0].experts.values()]
    assert not torch.equal(ups[1], ups[2]), "experts are drawn one by one"
    bound = 6**-0.5
    assert all(float(up.detach().abs().max()) <= bound for up in ups)


def test_replicas_draw_the_same_and_another_seed_something_else() -> None:
    one, other = grown(), grown()
    first = surgery.apply(one, None, Reset(**FIELDS), None)
    assert surgery.apply(other, None, Reset(**FIELDS), None).fingerprint == first.fingerprint
    third = surgery.apply(other, None, Reset(**{**FIELDS, "seed": 8}), None)
    assert third.fingerprint != first.fingerprint


def test_experts_made_narrower_are_drawn_as_narrow() -> None:
    config = {**ROUTED, "max_experts": None, "head": {"kind": "moe", "hidden": [64]}}
    model = classifier(**config)
    edit = loop.grow(4, 1, reading="rescale")
    surgery.apply(model, None, edit, torch.randn(16, 6))
    width = model.head.layers[0].experts["0"].width
    surgery.apply(model, None, Reset(**FIELDS), None)
    ups = [expert.up.weight.detach() for expert in model.head.layers[0].experts.values()]
    assert [len(up) for up in ups] == [width] * 4
    assert len({float(up.flatten()[0]) for up in ups}) == 4


def test_parts_are_reset_alone() -> None:
    model = classifier(**HEADED)
    optimizer = stepped(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    surgery.apply(model, optimizer, Reset(**FIELDS, parts=("head.layers.2",)), None)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {"head.layers.2.weight", "head.layers.2.bias"}
    forgotten = {n for n, p in model.named_parameters() if p not in optimizer.state}
    assert forgotten == changed


def test_frozen_parameters_stay() -> None:
    model = classifier(**HEADED)
    model.backbone.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    surgery.apply(model, None, Reset(**FIELDS), None)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("backbone.")
    with pytest.raises(InputError, match="is frozen"):
        surgery.apply(model, None, Reset(**FIELDS, parts=("backbone",)), None)


@pytest.mark.parametrize("kind", ["expanding_mlp", "plasticity_injection", "progressive_net"])
def test_the_baselines_that_grow_are_drawn_anew_too(kind: str) -> None:
    model = classifier(max_experts=3, head={"kind": kind, "hidden": [6]})
    surgery.apply(model, None, loop.grow(3, 1), torch.randn(8, 6))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    surgery.apply(model, None, Reset(**FIELDS), None)
    moved = {n: not torch.equal(p, before[n]) for n, p in model.named_parameters()}
    assert moved == {n: p.requires_grad for n, p in model.named_parameters()}


def test_parts_that_are_not_there_and_models_that_cannot_be_drawn_are_refused() -> None:
    model = classifier(**HEADED)
    with pytest.raises(InputError, match=r"no parts \['tail'\]; its parts are backbone, head"):
        surgery.apply(model, None, Reset(**FIELDS, parts=("tail",)), None)
    edit = ShrinkPerturb(**FIELDS, shrink=0.5, perturb=0.1)
    with pytest.raises(InputError, match="cannot be drawn anew"):
        surgery.apply(torch.nn.Linear(2, 2), None, edit, None)
