"""Diagnostics of where capacity is needed, against derivatives and counts worked out here."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.diagnostics import DIAGNOSTICS, Figures, Gates, Probe
from workers.diagnostics.capacity import fitting, standardised
from workers.diagnostics.observing import observe
from workers.diagnostics.patterns import set_numbers
from workers.moe.experts import Bottleneck, LinearExpert
from workers.moe.layers import MoELayer
from workers.moe.selectors import TopK


def figures(name: str, seen: Probe, **settings: Any) -> Figures:
    cls: Any = DIAGNOSTICS[name]
    return cls(cls.Config(kind=name, **settings)).figures(seen)


def layer(inputs: int, outputs: int, experts: int, expert: Any, **settings: Any) -> MoELayer:
    config = MoELayer.Config(expert=expert, **settings)
    return MoELayer(config, inputs, outputs, experts, seed=inputs + outputs)


def probed(model: nn.Module, x: Tensor, y: Tensor | None) -> Probe:
    model.eval()
    with observe(model) as take, torch.no_grad():
        outputs = model(x)
        routed = take()
    loss = None if y is None else functional.mse_loss
    return Probe(
        model=model,
        inputs=x,
        outputs=outputs,
        targets=y,
        routed=routed,
        domains=("d",),
        domain=torch.zeros(len(x), dtype=torch.long),
        loss=loss,
    )


def gates(chosen: list[list[int]]) -> Probe:
    on = torch.tensor(chosen).bool()
    told = Gates(weights=on.float(), chosen=on, probabilities=on.float())
    nothing = torch.zeros(0)
    return Probe(
        model=nn.Identity(),
        inputs=nothing,
        outputs=nothing,
        routed={"l": told},
        domains=("d",),
        domain=torch.zeros(len(on), dtype=torch.long),
    )


def test_patterns_their_entropy_and_the_number_possible() -> None:
    found = figures("routing_patterns", gates([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1]]))
    assert found == pytest.approx({"l": 3.0, "l/entropy": 1.5, "l/bound": 3 + 3})
    fixed = figures("routing_patterns", gates([[1, 0, 0, 1], [1, 1, 0, 0]]))
    assert fixed == pytest.approx({"l": 2.0, "l/entropy": 1.0, "l/bound": math.comb(4, 2)})


def test_sets_of_many_experts_are_told_apart_as_their_rows_are() -> None:
    chosen_TE = torch.rand(400, 70, generator=torch.Generator().manual_seed(0)) < 0.02
    _, row_T = chosen_TE.unique(dim=0, return_inverse=True)
    number_T = set_numbers(chosen_TE)
    assert torch.equal(number_T[:, None] == number_T, row_T[:, None] == row_T)
    assert int(number_T.max()) == int(row_T.max())
    first = torch.eye(70, dtype=torch.bool)[[0, 29, 30, 69, 0]]
    assert set_numbers(first).unique().numel() == 4


def test_operations_of_what_ran() -> None:
    model = nn.Sequential(
        layer(6, 6, 4, Bottleneck.Config(width=3), selector=TopK.Config(k=2)),
        layer(6, 2, 3, LinearExpert.Config(), shared=1),
    )
    found = figures("active_flops", probed(model, torch.randn(9, 6), None))
    assert found["0"] == 2 * 4 * 6 * 3 + 2 * 6 * 4  # E[k] 4 d d_h + 2 d N
    assert found["1"] == (3 + 1) * 2 * 6 * 2 + 2 * 6 * 3
    assert found["all/total"] == found["0"] + found["1"]


def test_variance_of_gate_gradients_of_single_samples() -> None:
    torch.manual_seed(0)
    model, x, y = layer(5, 2, 3, LinearExpert.Config()), torch.randn(12, 5), torch.randn(12, 2)
    found = figures("gate_gradient_variance", probed(model, x, y))[""]
    parameters = list(model.router.parameters())
    rows = []
    for n in range(12):
        loss = (model(x[n : n + 1]) - y[n : n + 1]).square().mean()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    wanted = torch.stack(rows).double().var(0, correction=0).sum()
    assert found == pytest.approx(float(wanted), rel=1e-5)
    assert all(p.grad is None for p in model.parameters())
    alike = probed(model, x[:1].expand(4, 5), y[:1].expand(4, 2))
    assert figures("gate_gradient_variance", alike)[""] == pytest.approx(0.0, abs=1e-9)


def test_curvature_of_a_quadratic_loss_is_its_matrix() -> None:
    """One linear expert under a gate of 1: H = 2 W W' / K for every sample."""
    torch.manual_seed(0)
    model, x = layer(4, 3, 1, LinearExpert.Config()), torch.randn(400, 4)
    y = torch.randn(400, 3)
    found = figures("curvature", probed(model, x, y), draws=8)
    weight = next(p for n, p in model.named_parameters() if "experts" in n and p.dim() == 2)
    weight = weight if weight.shape == (3, 4) else weight.T
    matrix = 2 * weight.T @ weight / 3
    assert found[""] == pytest.approx(float(matrix.norm()), rel=0.05)
    gradient = 2 * (model(x) - y) @ weight / 3
    assert found["/gradient"] == pytest.approx(float(gradient.norm(dim=1).mean()), rel=1e-4)


def test_superposition_is_dimensions_by_running_units() -> None:
    model = nn.Sequential(layer(4, 4, 4, Bottleneck.Config(width=3), selector=TopK.Config(k=2)))
    x = torch.cat([torch.eye(4), -torch.eye(4)])[:, [0, 1, 2, 3]]
    x[:, 2:] = 0  # two dimensions of equal variance
    found = figures("superposition", probed(model, x, torch.zeros(8, 4)))
    assert found == pytest.approx({"0": 2.0 / 6.0})


def test_demand_over_depth_and_the_experts_that_fit_it() -> None:
    torch.manual_seed(0)
    expert = Bottleneck.Config(width=5)
    model = nn.Sequential(*(layer(6, 6, experts, expert) for experts in (4, 2, 3)))
    found = figures("rdc_index", probed(model, torch.randn(64, 6), torch.randn(64, 6)))
    demand = [found[str(place)] for place in range(3)]
    assert sum(demand) == pytest.approx(0.0, abs=1e-9), "z-scores"
    low, high = min(demand), max(demand)
    wanted = [1 + 3 * (d - low) / (high - low) for d in demand]
    assert [found[f"{place}/experts"] for place in range(3)] == pytest.approx(wanted)
    off = sum((n - w) ** 2 for n, w in zip((4, 2, 3), wanted, strict=True)) / 9
    assert found["all/misalignment"] == pytest.approx(off)
    again = figures(
        "rdc_index",
        probed(model, torch.randn(64, 6), torch.randn(64, 6)),
        weights=(1.0, 0.0, 0.0, 0.0, 0.0),
    )
    entropies = standardised([again[f"{place}/entropy"] for place in range(3)])
    assert [again[str(place)] for place in range(3)] == pytest.approx(entropies)


def test_entropy_of_a_known_gaussian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(layer(3, 3, 2, LinearExpert.Config()) for _ in range(2)))
    x = torch.randn(20_000, 3) * 2
    found = figures("rdc_index", probed(model, x, torch.zeros(20_000, 3)))
    assert found["0/entropy"] == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 4), abs=0.01)
    assert found["0/co_adaptation"] == pytest.approx(0.0, abs=0.02)


def test_what_does_not_know_the_loss_says_nothing() -> None:
    model = nn.Sequential(*(layer(3, 3, 2, LinearExpert.Config()) for _ in range(2)))
    seen = probed(model, torch.randn(5, 3), None)
    for name in ("gate_gradient_variance", "curvature", "rdc_index", "superposition"):
        assert figures(name, seen) == {}


def test_equal_demands_and_constant_signals() -> None:
    assert fitting({"a": 2.0, "b": 2.0}, 1, 8) == {"a": 8.0, "b": 8.0}
    assert standardised([3.0, 3.0]) == [0.0, 0.0]
