"""The importance loss by hand."""

from __future__ import annotations

import torch

from workers.moe.losses import Importance
from workers.moe.routed import Routed


def _loss(weights_TE: torch.Tensor) -> torch.Tensor:
    routed = Routed(
        weights_TE, weights_TE, weights_TE, weights_TE > 0, weights_TE, 0.0, (), None, None
    )
    return Importance(Importance.Config()).loss(routed)


def test_squared_variation_of_the_sums_of_weights() -> None:
    """Sums 1.6 and 0.4: mean 1, variance 0.36."""
    weights_TE = torch.tensor([[0.8, 0.2], [0.8, 0.2]], requires_grad=True)
    loss = _loss(weights_TE)
    torch.testing.assert_close(loss, torch.tensor(0.36))
    loss.backward()
    assert weights_TE.grad is not None
    assert bool((weights_TE.grad[:, 0] > 0).all())
    assert bool((weights_TE.grad[:, 1] < 0).all())


def test_even_and_empty_sums_cost_nothing() -> None:
    assert float(_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))) == 0.0
    assert float(_loss(torch.zeros(3, 2))) == 0.0
