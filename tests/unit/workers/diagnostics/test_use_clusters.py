"""Domains found in the use of experts, where it is known whether there are any to find."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.diagnostics import DIAGNOSTICS, Figures, Gates, Probe


def figures(domain: list[int], **uses: Tensor) -> Figures:
    nothing = torch.zeros(0)
    gates = {
        layer: Gates(weights=use_TE, chosen=use_TE > 0, probabilities=use_TE)
        for layer, use_TE in uses.items()
    }
    seen = Probe(
        model=nn.Identity(),
        inputs=nothing,
        outputs=nothing,
        routed=gates,
        domains=tuple("abc"[: max(domain) + 1]),
        domain=torch.tensor(domain),
    )
    cls: Any = DIAGNOSTICS["use_clusters"]
    return cls(cls.Config()).figures(seen)  # type: ignore[no-any-return]


def routed(*experts: int) -> Tensor:
    return torch.eye(3)[list(experts)]


def test_a_layer_that_routes_by_domain_finds_them_and_one_that_does_not_finds_nothing() -> None:
    domain = [0] * 8 + [1] * 8
    found = figures(domain, knows=routed(*[0] * 8, *[2] * 8), blind=routed(*[0, 1] * 8))
    assert found["knows"] == 1.0
    assert found["blind"] == pytest.approx((24 - 56 * 56 / 120) / (56 - 56 * 56 / 120))
    assert set(found) == {"knows", "blind", "all"}


def test_tokens_of_a_sample_count_together() -> None:
    """Three positions each; which expert a single one uses tells nothing, the mixture does."""
    one, other = routed(0, 0, 1), routed(0, 1, 1)
    found = figures([0, 1, 0, 1], layer=torch.cat([one, other, one, other]))
    assert found == {"layer": 1.0}


def test_nothing_of_one_domain_or_of_uses_that_are_all_alike() -> None:
    assert figures([0, 0], layer=routed(0, 1)) == {}
    assert figures([0, 1, 0], layer=routed(1, 1, 1)) == {}
