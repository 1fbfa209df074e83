"""expert_ablation: the ranked experts of each domain off, on every domain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.probes import accuracy, figures, probe
from tests.routed import INPUTS, Two, by_hand

DOMAIN = [0] * 30 + [1] * 30


def samples() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(60, INPUTS)
    x[30:] += 2.0
    return x, torch.randint(0, 3, (60,))


def test_the_change_is_that_of_the_masked_softmax() -> None:
    model, (x, y) = Two({"kind": "dense"}), samples()
    found = figures("expert_ablation", probe(model, x, y, DOMAIN))
    layers = {"first": model.first, "last": model.last}
    reads = {"first": x, "last": model.first(x).tanh()}
    for domain, half in (("a", slice(0, 30)), ("b", slice(30, 60))):
        other = slice(30, 60) if domain == "a" else slice(0, 30)
        scores = {}
        for name, layer in layers.items():
            top = torch.stack([p(layer, reads[name], e) for e in range(3)], 1).argmax(-1)
            for e in range(3):
                used = (top == e).double()
                scores[name, e] = float(used[half].mean() - used[other].mean())
        name, e = max(scores, key=lambda place: scores[place])
        assert found[f"{domain}/{name}/{e}"] == pytest.approx(scores[name, e])

        def off(r: Tensor, e: int = e) -> Tensor:
            return r.index_fill(1, torch.tensor([e]), -math.inf).softmax(-1)

        if name == "first":
            z = model.last(by_hand(model.first, x, off).tanh())
        else:
            z = by_hand(model.last, model.first(x).tanh(), off)
        change = accuracy(z, y) - accuracy(model(x), y)
        assert found[f"{domain}/a"] == pytest.approx(float(change[:30].mean()))
        assert found[f"{domain}/b"] == pytest.approx(float(change[30:].mean()))
    assert len(found) == 6


def p(layer: object, x: Tensor, e: int) -> Tensor:
    from workers.moe.routers import RouterContext

    return layer.router(x, RouterContext()).softmax(-1)[:, e]  # type: ignore[attr-defined]


def test_a_layer_keeps_its_last_expert_and_agents_tell_agreement() -> None:
    model, (x, _) = Two({"kind": "dense"}), samples()
    found = figures("expert_ablation", probe(model, x, None, DOMAIN, score=None), top=6)
    changes = [found[f"{one}/{other}"] for one in "ab" for other in "ab"]
    assert all(-1.0 <= change <= 0.0 for change in changes)
    assert any(change < 0 for change in changes)


def test_one_domain_has_nothing_to_compare() -> None:
    model, (x, y) = Two({"kind": "dense"}), samples()
    assert figures("expert_ablation", probe(model, x, y, [0] * 60)) == {}
    with pytest.raises(ValueError, match="top must be at least 1"):
        figures("expert_ablation", probe(model, x, y, DOMAIN), top=0)
