"""k_curve: the score at each number of experts."""

from __future__ import annotations

import pytest
import torch

from tests.probes import accuracy, figures, probe
from tests.routed import INPUTS, Two, by_hand


def test_the_curve_is_the_score_at_each_k() -> None:
    torch.manual_seed(0)
    model, x, y = Two({"kind": "dense"}), torch.randn(40, INPUTS), torch.randint(0, 3, (40,))
    found = figures("k_curve", probe(model, x, y, [0] * 40))
    curve = {}
    for k in (1, 2, 3):

        def shares(r: torch.Tensor, k: int = k) -> torch.Tensor:
            p = r.softmax(-1)
            kept = p * torch.zeros_like(p).scatter(1, p.topk(k, -1).indices, 1.0)
            return kept / kept.sum(-1, keepdim=True)

        z = by_hand(model.last, by_hand(model.first, x, shares).tanh(), shares)
        curve[f"k{k}"] = float(accuracy(z, y).mean())
    best = min(k for k in (1, 2, 3) if curve[f"k{k}"] == max(curve.values()))
    assert found == pytest.approx({**curve, "best": float(best)})
    assert len(set(curve.values())) > 1, "a curve that could be wrong"


def test_an_agent_has_no_score_on_its_probe() -> None:
    model = Two({"kind": "dense"})
    assert figures("k_curve", probe(model, torch.randn(4, INPUTS), None, [0] * 4, score=None)) == {}
