"""The cosine router: the formula, its loss, growth, and what it is not."""

from __future__ import annotations

import pytest
import torch

from workers.contract import InputError
from workers.moe.experts import LinearExpert
from workers.moe.layers import MoELayer
from workers.moe.routers import ROUTERS, RouterContext
from workers.moe.stepping import take_losses

COSINE = ROUTERS["cosine"]


def _router(**settings):
    torch.manual_seed(0)
    router = COSINE(COSINE.Config(**settings), 5)
    for number in range(3):
        router.add(number)
    return router


def test_logits_are_scaled_cosines() -> None:
    router, x_TD = _router(scale=7.0), torch.randn(20, 5)
    found_TE = router(x_TD, RouterContext())
    for e, row in enumerate(router.rows.values()):
        wanted = 7.0 * torch.cosine_similarity(x_TD, row.unsqueeze(0))
        torch.testing.assert_close(found_TE[:, e], wanted)
    torch.testing.assert_close(router(3 * x_TD, RouterContext()), found_TE)
    with torch.no_grad():
        router.log_scale.fill_(9.0)
    assert float(router(x_TD, RouterContext()).abs().max()) <= 100.001


def test_copies_score_alike_and_shifts_are_kept() -> None:
    router, x_TD = _router(), torch.randn(20, 5)
    before = router(x_TD, RouterContext())
    router.add(3)
    router.split(1, 3, 0.5)
    after = router(x_TD, RouterContext())
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    torch.testing.assert_close(after[:, 1], before[:, 1] - 0.5)
    torch.testing.assert_close(after[:, 3], after[:, 1])
    router.aim(3, torch.tensor([0.0, 2.0, 0, 0, 0]))
    aimed = router(torch.eye(5), RouterContext())[:, 3]
    assert aimed.argmax() == 1


def test_diversity_is_the_formula() -> None:
    config = MoELayer.Config(router=COSINE.Config(diversity=0.5), expert=LinearExpert.Config())
    layer = MoELayer(config, 5, 4, 3)
    layer(torch.randn(4, 5))
    loss = take_losses({"": layer})["loss/diversity/"]
    rows = torch.stack(list(layer.router.rows.values())).detach()
    total = sum(
        float(torch.cosine_similarity(rows[i], rows[j], dim=0)) ** 2
        for i in range(3)
        for j in range(3)
        if i != j
    )
    lengths = sum(float(row.square().sum()) ** 0.5 for row in rows) / 3
    assert float(loss.detach()) == pytest.approx(0.5 * (total**0.5 + lengths), rel=1e-4)
    loss.backward()
    assert all(row.grad.any() for row in layer.router.rows.values())


def test_one_expert_has_a_finite_loss_and_gradient() -> None:
    layer = MoELayer(MoELayer.Config(router=COSINE.Config(diversity=1.0)), 60, 60, 1)
    layer(torch.randn(4, 60))
    take_losses({"": layer})["loss/diversity/"].backward()
    assert layer.router.rows["0"].grad.isfinite().all()


def test_what_it_is_not_is_refused() -> None:
    router = _router()
    with pytest.raises(InputError, match="no linear map"):
        router.as_linear()
    with pytest.raises(InputError, match="cannot start"):
        router.start_from(torch.zeros(3, 5), None)
    with pytest.raises(ValueError, match="scale must be above 0"):
        COSINE.Config(scale=0.0)


def test_half_precision_scores_in_float32() -> None:
    router = _router().bfloat16()
    assert router(torch.randn(4, 5).bfloat16(), RouterContext()).dtype == torch.float32


def test_a_suppressed_expert_keeps_its_direction() -> None:
    """The cosine of a zero row has a gradient of about 1e12, under which nothing else learns."""
    router, x_TD = _router(), torch.randn(20, 5)
    drawn, before = router.rows["2"].detach().clone(), router(x_TD, RouterContext())
    router.suppress(2, 5.0, 10)
    assert torch.equal(router.rows["2"], drawn)
    found_TE = router.eval()(x_TD, RouterContext())
    torch.testing.assert_close(found_TE[:, 2], before[:, 2] - 5.0)
    found_TE.square().sum().backward()
    assert float(router.rows["2"].grad.abs().max()) < 1e5
