"""Output-aware scores and super experts against their equations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from workers.diagnostics import DIAGNOSTICS, Probe
from workers.diagnostics.super_experts import supers
from workers.edits import Cause, Prune
from workers.moe.growth import surgery
from workers.moe.layers import MoELayer, ResidualLayer
from workers.moe.selectors import TopK

TOPK = MoELayer.Config(selector=TopK.Config(k=2))


def probe(model: nn.Module, inputs: torch.Tensor, domain: list[int]) -> Probe:
    return Probe(
        model=model.eval(),
        inputs=inputs,
        outputs=inputs,
        domains=("a", "b"),
        domain=torch.tensor(domain),
        inputs_domain=torch.tensor(domain),
    )


def told(name: str, seen: Probe) -> Any:
    cls: Any = DIAGNOSTICS[name]
    return cls(cls.Config(kind=name)).told(seen)


@torch.no_grad()
def expected(layer: Any, x_TD: torch.Tensor, moved_T: torch.Tensor) -> torch.Tensor:
    """The equation, token by token [T, E]."""
    score_TE = torch.zeros(len(x_TD), layer.live, dtype=torch.float64)
    logits_TE = layer.router(x_TD, _context())
    for t, logits_E in enumerate(logits_TE):
        best = logits_E.topk(2)
        for weight, place in zip(best.values.softmax(0), best.indices, strict=True):
            answer = layer.expert(layer.ids[place])(x_TD[t])
            score_TE[t, place] = float(weight * answer.norm() * moved_T[t])
    return score_TE


def _context() -> Any:
    from workers.moe.routers import RouterContext

    return RouterContext()


def test_scores_are_gate_times_length_times_what_the_block_moves() -> None:
    torch.manual_seed(1)
    config = ResidualLayer.Config(inner=TOPK)
    model = nn.Sequential(ResidualLayer(config, 12, 12, experts=4, seed=3), nn.Linear(12, 3))
    x = torch.randn(10, 12)
    h = model[0](x)
    cosine_T = (x * h).sum(1) / (x.norm(dim=1) * h.norm(dim=1))
    want_TE = expected(model[0].inner, x, (1 - cosine_T).clamp_min(0).detach())
    found = told("output_aware", probe(model, x, [0] * 4 + [1] * 6))["0.inner"]
    assert found["a"] == pytest.approx(want_TE[:4].sum(0).tolist(), rel=1e-5)
    assert found["b"] == pytest.approx(want_TE[4:].sum(0).tolist(), rel=1e-5)


def test_a_layer_that_changes_the_number_of_features_replaces_the_state() -> None:
    model = nn.Sequential(MoELayer(TOPK, 12, 16, experts=3, seed=3), nn.Linear(16, 3))
    x = torch.randn(6, 12)
    want_TE = expected(model[0], x, torch.ones(6))
    found = told("output_aware", probe(model, x, [0] * 6))["0"]
    assert list(found) == ["a"]
    assert found["a"] == pytest.approx(want_TE.sum(0).tolist(), rel=1e-5)


def test_scores_go_by_id() -> None:
    model = nn.Sequential(MoELayer(TOPK, 12, 16, experts=4, seed=3), nn.Linear(16, 3))
    cause = Cause(policy="test", trigger="test")
    fields = {"id": "e", "stage": "s", "after_interval": 0, "revision": 1, "seed": 0}
    surgery.apply(model, None, Prune(**fields, cause=cause, experts={"0": (1,)}), None)  # type: ignore[arg-type]
    scores = told("output_aware", probe(model, torch.randn(20, 12), [0] * 20))["0"]["a"]
    assert len(scores) == 4
    assert scores[1] == 0.0
    assert min(scores[0], scores[2], scores[3]) > 0


def test_one_expert_that_shouts_is_super() -> None:
    layers = [MoELayer(TOPK, 12, 12, experts=4, seed=seed) for seed in range(4)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        layers[1].expert(2).down.weight.mul_(200)
        layers[1].expert(2).down.bias.fill_(50.0)
    seen = probe(model, torch.randn(64, 12), [0] * 64)
    found = told("super_experts", seen)
    assert found == {"0": [], "1": [2], "2": [], "3": []}
    cls: Any = DIAGNOSTICS["super_experts"]
    (figure,) = cls(cls.Config(kind="super_experts")).figures(seen).items()
    assert figure[0] == "1/2"
    assert figure[1] >= 50.0


def test_the_percentile_the_tenth_and_the_depth() -> None:
    many = {f"l{n}": {e: 1.0 + 0.001 * e for e in range(300)} for n in range(4)}
    many["l0"][7], many["l3"][9] = 100.0, 100.0
    assert supers(many) == {"l0": [7], "l1": [], "l2": [], "l3": []}  # l3 lies too deep
    many["l1"][3] = 9.0  # beyond the 99.5th percentile, but below a tenth of the largest
    assert supers(many)["l1"] == []
    many["l1"][3] = 11.0
    assert supers(many)["l1"] == [3]
    assert supers({}) == {}
