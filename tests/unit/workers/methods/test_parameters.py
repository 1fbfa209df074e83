"""What is known of parameters goes along with edits, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from workers.edits import Cause, Change, Grow, Prune
from workers.methods.parameters import PerParameter
from workers.moe.growth import surgery
from workers.moe.layers import MoELayer

FIELDS = {"id": "e", "stage": "s", "after_interval": 0, "revision": 1, "seed": 0}
CAUSE = Cause(policy="test", trigger="test")


def layer(experts: int = 2) -> MoELayer:
    return MoELayer(MoELayer.Config(), 12, 24, experts)


def known_of(model: nn.Module) -> PerParameter:
    """Other numbers for each entry of each parameter."""
    known, first = PerParameter(), 0.0
    for name, parameter in model.named_parameters():
        count = parameter.numel()
        known.put(name, parameter, {"n": first + torch.arange(count).view(parameter.shape)})
        first += count
    return known


def grow(experts: int, **fields: str) -> Grow:
    return Grow(**FIELDS, cause=CAUSE, experts=experts, **fields)


def test_growth_leaves_the_old_and_knows_nothing_of_the_new() -> None:
    moe = layer()
    known = known_of(moe)
    before = known.state()
    _, change = surgery.follow(moe, None, grow(3), None)
    known.follow(moe, change)
    after = known.state()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    new = {name for name, _ in moe.named_parameters() if name not in known}
    assert any(name.startswith("experts.2.") for name in new)


def test_removal_forgets_what_is_gone_and_no_more() -> None:
    moe = layer(3)
    known = known_of(moe)
    before = known.state()
    edit = Prune(**FIELDS, cause=CAUSE, experts={"": (1,)})
    _, change = surgery.follow(moe, None, edit, None)
    known.follow(moe, change)
    after = known.state()
    names = {f"{name}/n" for name, _ in moe.named_parameters()}
    assert after.keys() == names < before.keys()
    assert all(torch.equal(after[name], before[name]) for name in names)


def test_narrowed_experts_keep_what_is_known_of_what_is_left() -> None:
    moe = layer()
    old = {name: parameter.detach().clone() for name, parameter in moe.named_parameters()}
    known = known_of(moe)
    before = known.state()
    probe = torch.randn(32, 12)
    _, change = surgery.follow(moe, None, grow(4, reading="rescale"), probe)
    assert change.narrowed
    known.follow(moe, change)
    for name, parameter in moe.named_parameters():
        if name not in old:
            continue
        kept = before[f"{name}/n"]
        if name in change.narrowed:
            _, dim, index = change.narrowed[name]
            kept = kept.index_select(dim, index)
        assert torch.equal(known.of(name)["n"], kept)
        assert kept.shape == parameter.shape


def test_a_replaced_parameter_is_another_one() -> None:
    model = nn.Linear(2, 2)
    known = known_of(model)
    model.weight = nn.Parameter(torch.zeros(2, 2))
    known.follow(model, Change())
    assert [name for name, _, _ in known] == ["bias"]


ROW, COLUMN = (0, torch.tensor([1])), (1, torch.tensor([0]))


@pytest.mark.parametrize("entries", [(ROW,), None])
def test_entries_to_forget_become_zero(entries: Any) -> None:
    model = nn.Linear(2, 3)
    known = PerParameter()
    known.put("weight", model.weight, {"n": torch.ones(3, 2)})
    known.follow(model, Change(cleared={"weight": entries, "bias": None}))
    rows = [True, False, True] if entries else [False] * 3
    assert known.of("weight")["n"].bool().all(1).tolist() == rows


def test_state_round_trip() -> None:
    moe = layer()
    known, again = known_of(moe), PerParameter()
    again.load(known.state(), moe)
    assert [name for name, _, _ in again] == [name for name, _, _ in known]
    assert all(parameter is dict(moe.named_parameters())[name] for name, parameter, _ in again)
    again.of("router.biases.0" if "router.biases.0" in again else next(iter(again))[0])["n"].zero_()
    assert any(bool(value.any()) for value in known.state().values())
