"""The ridge router: the closed form, sums that add up, and rows that no gradient moves."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, grow, layer
from workers.contract import InputError
from workers.moe.growth.growable import arch, ensure_arch
from workers.moe.growth.initialisers import CloneSplit
from workers.moe.routers import RidgeRouter, RouterContext
from workers.moe.routers.ridge import sums

CONFIG = RidgeRouter.Config()


def data(tokens: int = 60, experts: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.arange(tokens) % experts
    return torch.randn(tokens, 5) + 2.0 * torch.nn.functional.one_hot(y, 5), y


def test_the_fit_is_the_closed_form() -> None:
    router, (x, y) = layer(CONFIG).router, data()
    router.fit(x, y, 0)
    read = torch.cat([x.double(), torch.ones(60, 1, dtype=torch.float64)], 1)
    wanted = torch.nn.functional.one_hot(y).double()
    inverse = torch.linalg.inv(read.T @ read + 1e-2 * torch.eye(6, dtype=torch.float64))
    weights = inverse @ read.T @ wanted
    weights = weights / weights[:5].norm(dim=0)
    torch.testing.assert_close(router.solved().T, weights)
    logits = router(x, RouterContext())
    torch.testing.assert_close(logits, (read @ weights / 0.1).float(), rtol=1e-4, atol=1e-4)
    assert float((logits.argmax(1) == y).float().mean()) > 0.8


def test_fits_one_after_another_are_the_fit_of_all_at_once() -> None:
    """Below 1e-10, though an expert came later and its domain's data alone with it."""
    x, y = data(experts=4)
    whole, parts = layer(CONFIG, experts=4), layer(CONFIG, experts=3)
    whole.router.fit(x, y, 0)
    old = y < 3
    parts.router.fit(x[old][:20], y[old][:20], 0)
    parts.router.fit(x[old][20:], y[old][20:], 0)
    grow(parts, 4)
    parts.router.fit(x[~old], y[~old], 0)
    assert float((parts.router.solved() - whole.router.solved()).abs().max()) < 1e-10


def test_sums_of_two_workers_are_those_of_one() -> None:
    x, y = data()
    one, two = layer(CONFIG).router, layer(CONFIG).router
    one.fit(x, y, 0)
    halves = [sums(x[part], y[part], 3) for part in (slice(0, 31), slice(31, None))]
    two.take(*(first + second for first, second in zip(*halves, strict=True)))
    assert float((one.solved() - two.solved()).abs().max()) < 1e-10


def test_an_expert_without_sums_keeps_its_row_and_nothing_is_trained() -> None:
    made, (x, y) = layer(CONFIG, experts=4).train(), data(experts=3)
    drawn = made.router.rows["3"].clone()
    made.router.fit(x, y, 0)
    assert torch.equal(made.router.rows["3"], drawn)
    made(x).square().sum().backward()
    assert all(parameter.grad is None for parameter in made.router.parameters())
    assert list(made.router.trainable_parameters()) == []


def test_growth_and_restoring() -> None:
    check_growth_and_restoring(lambda: layer(CONFIG), torch.randn(4, 5))
    made, (x, y) = layer(CONFIG), data()
    made.router.fit(x, y, 0)
    grow(made, 4)
    fresh = layer(CONFIG)
    ensure_arch(fresh, arch(made))
    fresh.load_state_dict(made.state_dict())
    for router in (made.router, fresh.router):
        router.fit(x + 1.0, y, 0)
    assert torch.equal(made.router.solved(), fresh.router.solved())


def test_what_is_refused() -> None:
    x, y = data(experts=4)
    with pytest.raises(InputError, match=r"fitted to number 3 .*experts"):
        layer(CONFIG).router.fit(x, y, 0)
    with pytest.raises(ValueError, match="ridge must be above 0"):
        RidgeRouter.Config(ridge=0.0)


def test_another_library_is_told_the_scores_as_they_are() -> None:
    router, (x, y) = layer(CONFIG).router, data()
    router.fit(x, y, 0)
    rows, biases = router.as_linear()
    torch.testing.assert_close(
        x @ rows.T + biases, router(x, RouterContext()), rtol=1e-4, atol=1e-4
    )


def test_shifts_are_of_logits_and_copies_split_exactly() -> None:
    made, (x, y) = layer(CONFIG).eval(), data()
    made.router.fit(x, y, 0)
    before, answers = made.router(x, RouterContext()), made(x)
    made.router.shift_bias(1, 0.25)
    shifted = made.router(x, RouterContext()) - before
    torch.testing.assert_close(shifted[:, 1], torch.full((60,), 0.25), rtol=0, atol=1e-4)
    made.router.shift_bias(1, -0.25)
    grow(made, 4, CloneSplit(CloneSplit.Config()))
    torch.testing.assert_close(made(x), answers, rtol=1e-4, atol=1e-4)
