"""L2 towards initial parameters: its gradient, newborn experts, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.workers.methods.steps import ROUTED, build, classifier, context, trained
from tests.unit.workers.supervised import loop
from workers.contract import EditReport
from workers.edits import Change
from workers.moe.growth import surgery


def test_the_gradient_is_that_of_the_penalty_added_to_the_loss() -> None:
    model, method = classifier(**ROUTED), build("l2_init", strength=0.3)
    method.watch(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    list(trained(method, model, optimizer, 3))  # away from the start
    x, y = torch.randn(8, 6), torch.randint(3, (8,))
    penalty = sum(0.3 * (p - start[name]).square().sum() for name, p in model.named_parameters())
    loss = nn.functional.cross_entropy(model(x), y) + penalty
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(x), y).backward()
    method.after_backward(context(model, optimizer))
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_what_learns_nothing_is_not_pulled() -> None:
    model, method = classifier(**ROUTED), build("l2_init")
    method.watch(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    method.after_backward(context(model, optimizer))
    assert all(p.grad is None for p in model.parameters())


def grown(model: Any, method: Any, **fields: Any) -> tuple[EditReport, Change]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    report, change = surgery.follow(model, optimizer, loop.grow(**fields), torch.randn(16, 6))
    method.watch(model)
    method.edited(context(model, optimizer, change), report)
    return report, change


def test_old_parameters_keep_their_start_and_new_ones_have_their_own() -> None:
    model, method = classifier(**ROUTED), build("l2_init")
    method.watch(model)
    before = method.state()
    list(trained(method, model, torch.optim.SGD(model.parameters(), lr=0.2), 3))
    grown(model, method, experts=3, revision=1)
    after = method.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    new = set(after) - set(before)
    assert {"head.layers.0.experts.2.up.weight", "head.layers.0.router.rows.2"} <= new
    named = dict(model.named_parameters())
    assert all(torch.equal(after[name], named[name]) for name in new)
    assert list(after) == list(named)


def test_a_narrowed_expert_s_start_is_that_of_the_units_left() -> None:
    config = {**ROUTED, "max_experts": None, "head": {"kind": "moe", "hidden": [64]}}
    model, method = classifier(**config), build("l2_init")
    method.watch(model)
    before = method.state()
    _, change = grown(model, method, experts=4, revision=1, reading="rescale")
    after = method.state()
    name = "head.layers.0.experts.0.up.weight"
    _, dim, kept = change.narrowed[name]
    assert (dim, len(kept)) == (0, len(after[name]))
    assert len(kept) < len(before[name])
    assert torch.equal(after[name], before[name][kept])
    down = "head.layers.0.experts.0.down.weight"
    assert torch.equal(after[down], before[down][:, kept])


def test_a_removed_expert_is_forgotten() -> None:
    from workers.edits import Cause, Prune

    model, method = classifier(**ROUTED), build("l2_init")
    method.watch(model)
    cause = Cause(policy="p", trigger="t")
    edit = Prune(id="e", stage="s", after_interval=0, revision=1, seed=0, cause=cause,
                 experts={"head.layers.0": (0,)})  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    report, change = surgery.follow(model, optimizer, edit, None)
    method.watch(model)
    method.edited(context(model, optimizer, change), report)
    assert set(method.state()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("kind", ["l2_init", "hare_tortoise"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_lane_that_grows_is_taken_up_to_the_same_bits(
    tmp_path: Path, kind: str, precision: str
) -> None:
    every = {"every": 3, "momentum": 0.5} if kind == "hare_tortoise" else {}
    changes: dict[str, Any] = {
        "model": loop.ROUTED,
        "lanes": [{"method": {"kind": kind, **every}}],
        "training": {"steps": 8, "intervals": 2, "batch": 16, "precision": precision},
    }
    straight = loop.digests(tmp_path, again=False, **changes)
    assert loop.digests(tmp_path, again=True, **changes) == straight


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(AssertionError, match="strength must not be negative"):
        build("l2_init", strength=-1.0)
