"""Detectors of failing experts: each finds the failure that was planted, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.probes import figures, probe
from tests.routed import INPUTS, Two
from workers.diagnostics.failing_experts import own_experts, spaced, zero_share
from workers.moe.domains.masks import Mask
from workers.moe.experts.mlp import MLPExpert
from workers.moe.layers.moe import MoELayer
from workers.moe.routed import Birth

DOMAIN = [0, 0, 0, 1, 1, 1]


def routed_by_domain(strength: float) -> Two:
    """Domain a (x = 1) goes to expert 0 of the first layer, b (x = -1) to expert 1."""
    model = Two({"kind": "dense"})
    with torch.no_grad():
        for parameter in model.first.router.parameters():
            parameter.zero_()
        rows = [p for p in model.first.router.parameters() if p.dim() and p.numel() == INPUTS]
        rows[0].fill_(strength)
        rows[1].fill_(-strength)
    return model


def seen(model: Two) -> Any:
    x = torch.tensor([[1.0] * INPUTS] * 3 + [[-1.0] * INPUTS] * 3)
    return probe(model, x, torch.zeros(6, dtype=torch.int64), DOMAIN)


def test_an_expert_that_answers_nothing_has_collapsed() -> None:
    config = MoELayer.Config(expert=MLPExpert.Config(hidden=(8,)))
    layer = MoELayer(config, INPUTS, 3, 2, seed=0).eval()
    with torch.no_grad():
        for name, parameter in layer.expert(1).named_parameters():
            if "bias" in name:
                parameter.fill_(-100.0)
    x = torch.randn(20, INPUTS)
    found = figures(
        "expert_collapse", probe(layer, x, torch.zeros(20, dtype=torch.int64), [0] * 20)
    )
    assert found[""] == 1.0
    assert found["/1"] == 1.0
    hidden = next(m for m in layer.expert(0).modules() if isinstance(m, nn.Linear))(x).relu()
    assert found["/0"] == pytest.approx(float((hidden == 0).double().mean()))


def test_an_expert_without_an_activation_is_judged_by_its_output() -> None:
    model = Two({"kind": "dense"})
    assert zero_share(model.first.expert(0), torch.randn(5, INPUTS)) == 0.0
    model.first.expert(0).zero_output()
    assert zero_share(model.first.expert(0), torch.randn(5, INPUTS)) == 1.0


def test_an_expert_of_one_domain_is_degraded() -> None:
    strong = figures("expert_degradation", seen(routed_by_domain(3.0)))
    assert strong["first"] == 2.0
    assert strong["first/0"] > 0.99
    even = figures("expert_degradation", seen(routed_by_domain(0.0)))
    assert even["first"] == 0.0
    assert even["first/0"] == pytest.approx(0.5)


def masked(model: Two, rows: tuple[tuple[int, ...], ...]) -> None:
    model.first.masking.set(Mask(version=1, domains=("a", "b"), rows=rows))


def test_a_domain_that_ignores_its_own_expert_is_counted() -> None:
    model = routed_by_domain(3.0)
    masked(model, ((0, 1, 0), (1, 0, 0)))  # the wrong way round, and nobody trains the third
    found = figures("expert_underfitting", seen(model))
    assert found["first"] == 2.0
    assert found["first/a"] < 0.01
    masked(model, ((1, 0, 1), (0, 1, 1)))
    found = figures("expert_underfitting", seen(model))
    assert found["first"] == 0.0
    assert found["first/a"] == pytest.approx(3 * float(seen(model).routed["first"].weights[0, 0]))
    assert "last" not in found, "no expert there is anybody's own"


def test_copies_are_their_owner_s_own() -> None:
    model = Two({"kind": "dense"})
    model.first.experts.births[2] = Birth("s", 0, "b")
    assert own_experts(model.first, "b", ("a", "b")) == [2]
    assert own_experts(model.first, "a", ("a", "b")) == []


def test_one_domain_tells_nothing_and_limits_are_shares() -> None:
    model = routed_by_domain(1.0)
    alone = probe(model, torch.randn(4, INPUTS), torch.zeros(4, dtype=torch.int64), [0] * 4)
    for name in ("expert_degradation", "expert_underfitting"):
        assert figures(name, alone) == {}
    for name in ("expert_collapse", "expert_degradation", "expert_underfitting"):
        with pytest.raises(ValueError, match="limit must be above 0"):
            figures(name, alone, limit=0.0)


def test_experts_keep_their_names_when_others_are_removed() -> None:
    config = MoELayer.Config(expert=MLPExpert.Config(hidden=(8,)))
    layer = MoELayer(config, INPUTS, 3, 3, seed=0).eval()
    layer.remove(0)
    labels = torch.zeros(6, dtype=torch.int64)
    looked_at = probe(layer, torch.randn(6, INPUTS), labels, DOMAIN)
    for name in ("expert_collapse", "expert_degradation"):
        assert set(figures(name, looked_at)) == {"", "/1", "/2"}
    told = figures("expert_event_npmi", looked_at)
    assert {key.rpartition("/")[2] for key in told} <= {"1", "2"}
    told = figures("expert_ablation", looked_at)
    assert {key.rpartition("/")[2] for key in told} - {"a", "b"} <= {"1", "2"}


def test_all_tokens_of_an_expert_are_looked_at_not_the_first_ones() -> None:
    rows = torch.arange(1000.0).unsqueeze(1)
    assert len(spaced(rows)) == 256
    assert float(spaced(rows)[-1]) > 990
    assert torch.equal(spaced(rows[:5]), rows[:5])
    assert len(spaced(rows[:0])) == 0
