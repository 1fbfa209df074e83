"""Continual backpropagation: utilities, whom it replaces and when, growth, workers, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.workers.methods.steps import (
    DENSE,
    ROUTED,
    build,
    classifier,
    context,
    trained,
)
from tests.unit.workers.methods.test_l2_init import grown
from tests.unit.workers.supervised import loop

NEVER = {"replacement": 0.0}


def test_utilities_follow_the_equation() -> None:
    model, method = classifier(**DENSE), build("continual_backprop", decay=0.7, **NEVER)
    method.watch(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    first, second, last = model.head.layers
    utility = [torch.zeros(5).double(), torch.zeros(4).double()]
    forwards: list[list[torch.Tensor]] = []
    handle = model.head.activation.register_forward_hook(
        lambda module, given, h: forwards[-1].append(h.detach().double())
    )
    forwards.append([])
    for _ in trained(method, model, optimizer, 4):
        for place, reader in enumerate((second, last)):
            outgoing = reader.weight.detach().double().abs().sum(0)  # as the step left it
            mean = forwards[-1][place].abs().mean(0)
            utility[place] = 0.7 * utility[place] + 0.3 * mean * outgoing
        forwards.append([])
    handle.remove()
    for place in (0, 1):
        found = method.kept[f"head.layers.{place}"]
        assert torch.allclose(found["utility"], utility[place], rtol=1e-5)
        assert set(found["age"].tolist()) == {4.0}
    assert first.weight.grad is not None


def test_the_least_useful_mature_unit_is_replaced_when_a_whole_one_is_due() -> None:
    options = {"replacement": 0.1, "maturity": 3, "decay": 0.5}
    model, method = classifier(**DENSE), build("continual_backprop", **options)
    method.watch(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    weight, reader = model.head.layers[0].weight, model.head.layers[1].weight
    replaced: list[tuple[int, int]] = []
    for step, _ in enumerate(trained(method, model, optimizer, 7), start=1):
        replaced += [(step - 1, unit) for unit in _fresh(reader) if step > 1]
    # 5 units are mature from the 4th step on: 0.5 + 0.5 = 1 after the 5th, which takes one
    assert method.renewed >= 1
    steps = sorted({step for step, _ in replaced})
    assert steps[0] == 5
    unit = replaced[0][1]
    age = method.kept["head.layers.0"]["age"]
    assert age[unit] == 7 - 5
    assert sorted(age.tolist())[1:].count(7.0) >= 3
    assert weight.shape == (5, 6)


def _fresh(reader: torch.Tensor) -> list[int]:
    """Units whose outgoing weights are what one step makes of 0 at most."""
    return [j for j in range(reader.shape[1]) if float(reader[:, j].detach().abs().max()) < 0.0101]


def test_who_is_replaced_by_hand() -> None:
    model, method = classifier(**DENSE), build("continual_backprop", replacement=0.5, maturity=1)
    method.watch(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    list(trained(method, model, optimizer, 1))
    assert method.renewed == 0, "nothing is older than one step"
    ranks = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0]).double()
    method.kept["head.layers.0"]["utility"] = 1000.0 * ranks
    method.kept["head.layers.1"]["utility"] = 1000.0 * ranks[:4]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.zero_grad(set_to_none=True)
    model(torch.randn(8, 6)).sum().backward()
    method.after_step(context(model, optimizer))
    # half of 5 and of 4 mature units: two of each, those of least utility
    first, second, last = model.head.layers
    assert _moved(first.weight, before["head.layers.0.weight"], 0) == [1, 3]
    assert _moved(first.bias, before["head.layers.0.bias"], 0) == [1, 3]
    assert not second.weight[:, [1, 3]].any()
    assert not last.weight[:, [1, 3]].any()
    assert _moved(last.weight, before["head.layers.2.weight"], 1) == [1, 3]
    assert torch.equal(last.bias, before["head.layers.2.bias"])
    for place, which in (("head.layers.0", [1, 3]), ("head.layers.1", [1, 3])):
        assert method.kept[place]["age"][which].tolist() == [0.0, 0.0]
        assert method.kept[place]["utility"][which].tolist() == [0.0, 0.0]
    assert not optimizer.state[first.weight]["exp_avg"][[1, 3]].any()
    assert optimizer.state[first.weight]["exp_avg"][[0, 2, 4]].any()
    assert method.due == {"head.layers.0": 0.5, "head.layers.1": 0.0}


def _moved(after: torch.Tensor, before: torch.Tensor, dim: int) -> list[int]:
    differs = after != before
    other = [d for d in range(after.dim()) if d != dim]
    return (differs.any(other[0]) if other else differs).nonzero()[:, 0].tolist()


def test_growth_in_the_middle_leaves_old_units_figures_alone() -> None:
    model, method = classifier(**ROUTED), build("continual_backprop", **NEVER)
    method.watch(model)
    list(trained(method, model, torch.optim.SGD(model.parameters(), lr=0.2), 3))
    before = {name: value for name, value in method.state().items() if name != "rng"}
    grown(model, method, experts=3, revision=1, initialiser="clone_split")
    after = method.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not after["age/head.layers.0.experts.2"].any()
    list(trained(method, model, torch.optim.SGD(model.parameters(), lr=0.2), 2))
    assert set(method.state()["age/head.layers.0.experts.2"].tolist()) == {2.0}
    assert set(method.state()["age/head.layers.0.experts.0"].tolist()) == {5.0}


def test_narrowing_keeps_the_figures_of_the_units_left() -> None:
    config = {**ROUTED, "max_experts": None, "head": {"kind": "moe", "hidden": [64]}}
    model, method = classifier(**config), build("continual_backprop", **NEVER)
    method.watch(model)
    list(trained(method, model, torch.optim.SGD(model.parameters(), lr=0.2), 3))
    before = method.state()
    _, change = grown(model, method, experts=4, revision=1, reading="rescale")
    kept = change.narrowed["head.layers.0.experts.0.up.weight"][2]
    name = "utility/head.layers.0.experts.0"
    assert torch.equal(method.state()[name], before[name][kept])
    list(trained(method, model, torch.optim.SGD(model.parameters(), lr=0.2), 2))


def test_what_is_frozen_or_reached_by_no_token_stays() -> None:
    config = {
        **ROUTED,
        "head": {
            **ROUTED["head"],
            "layer": {
                "selector": {"kind": "topk", "k": 1, "weights": "full"},
                "expert": {"kind": "bottleneck", "width": 4},
            },
        },
    }
    model, method = classifier(**config), build("continual_backprop", replacement=1.0, maturity=1)
    method.watch(model)
    layer = model.head.layers[0]
    with torch.no_grad():
        layer.router.biases["1"].fill_(-1e4)
    before = {name: p.detach().clone() for name, p in layer.experts["1"].named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        model.train()(torch.randn(8, 6, generator=generator)).sum().backward()
        layer.experts["1"].zero_grad(set_to_none=True)  # as the trainer does
        method.after_step(context(model, optimizer))
    assert method.renewed > 0
    after = dict(layer.experts["1"].named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


LANE: dict[str, Any] = {
    "model": loop.ROUTED,
    "lanes": [{"method": {"kind": "continual_backprop", "replacement": 0.1, "maturity": 2}}],
    "training": {"steps": 8, "intervals": 2, "batch": 16},
}
SNR = [{"method": {"kind": "self_normalized_resets", "rejection": 0.6}}]


@pytest.mark.parametrize("lanes", [LANE["lanes"], SNR], ids=["cbp", "snr"])
@pytest.mark.parametrize(
    "training", [{}, {"accumulate": 2}, {"precision": "bfloat16"}], ids=["plain", "parts", "bf16"]
)
def test_a_lane_that_grows_is_taken_up_to_the_same_bits(
    tmp_path: Path, lanes: Any, training: dict[str, Any]
) -> None:
    changes = {**LANE, "lanes": lanes, "training": {**LANE["training"], **training}}
    straight = loop.digests(tmp_path, again=False, **changes)
    assert loop.digests(tmp_path, again=True, **changes) == straight
    trainer = loop.opened(**changes)
    trainer.run_interval(1, 0)
    assert trainer.method.renewed > 0, "it would show nothing otherwise"


@pytest.mark.parametrize(("field", "value"), [("replacement", 2.0), ("maturity", 0), ("decay", 1)])
def test_settings_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(AssertionError, match=f"{field} must be"):
        build("continual_backprop", **{field: value})
