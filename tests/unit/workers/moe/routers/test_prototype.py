"""The prototype router: cosines, its contrastive loss, prototypes where inputs are badly served."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, grow, layer
from workers.contract import InputError
from workers.moe.growth.initialisers import CloneSplit, LogitOffset, WorstServed
from workers.moe.layers import ChainLayer
from workers.moe.routed import StepContext, observing
from workers.moe.routers import LinearRouter, PrototypeRouter, RouterContext
from workers.moe.selectors import TopK
from workers.moe.stepping import stepping

CONFIG = PrototypeRouter.Config(temperature=0.2)
ONE = TopK.Config(k=1, weights="full")


def test_scores_are_cosines() -> None:
    router, x = layer(CONFIG).router, torch.randn(4, 5)
    rows = list(router.rows.values())
    wanted = torch.stack([cosine_similarity(x, row[None], dim=1) for row in rows], 1) / 0.2
    torch.testing.assert_close(router(x, RouterContext()), wanted)
    torch.testing.assert_close(router(3.0 * x, RouterContext()), wanted)


def test_the_contrastive_loss_is_the_equation_and_moves_prototypes_only() -> None:
    made = layer(CONFIG, selector=ONE, experts=4).train()
    made.selector.noise = 0.0
    x = torch.randn(30, 5, requires_grad=True)
    with stepping(made, StepContext()), observing(made) as seen:
        made(x)
        (loss,) = made.record.losses.values()
        assert list(made.record.losses) == ["routing_contrastive"]
    chosen = seen[""][0].chosen
    used = [e for e in range(4) if chosen[:, e].any()]
    assert len(used) >= 2
    means = {e: x[chosen[:, e]].mean(0) for e in used}
    rows = list(made.router.rows.values())
    total = 0.0
    for i in used:
        like = {j: cosine_similarity(rows[i], means[j], dim=0).item() / 0.07 for j in used}
        total += math.log(math.exp(like[i]) / sum(map(math.exp, like.values())))
    assert loss.item() == pytest.approx(-total / len(used), rel=1e-4, abs=1e-6)
    loss.backward()
    assert x.grad is None
    assert all(float(rows[e].grad.abs().sum()) > 0 for e in used)
    assert all(p.grad is None for expert in made.experts.values() for p in expert.parameters())


def test_one_used_expert_leaves_nothing_to_tell_apart() -> None:
    made = layer(CONFIG, selector=ONE).train()
    with stepping(made, StepContext()):
        made(torch.ones(3, 5))
        assert made.record.losses == {}
    assert layer(PrototypeRouter.Config(contrastive=0.0)).router.losses() == ()


def test_training_by_the_loss_draws_prototypes_to_their_inputs() -> None:
    config = PrototypeRouter.Config(contrastive_temperature=0.5)
    made = layer(config, selector=ONE, experts=2, inputs=2).train()
    groups = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    x = groups.repeat(20, 1) + 0.02 * torch.randn(40, 2)
    with torch.no_grad():
        made.router.rows["0"].copy_(torch.tensor([1.0, 0.3]))
        made.router.rows["1"].copy_(torch.tensor([0.5, 1.0]))

    def gaps() -> torch.Tensor:
        cosines = made.router.prototypes_ED @ torch.nn.functional.normalize(groups, dim=1).T
        return torch.stack([cosines[0, 0] - cosines[0, 1], cosines[1, 1] - cosines[1, 0]]).detach()

    before = gaps()
    optimizer = torch.optim.SGD(made.router.parameters(), 0.3)
    for _ in range(60):
        optimizer.zero_grad()
        with stepping(made, StepContext()):
            made(x)
            made.record.losses["routing_contrastive"].backward()
        optimizer.step()
    assert (gaps() > before + 0.1).all()


def test_a_new_prototype_stands_where_inputs_are_served_worst() -> None:
    made = layer(CONFIG, experts=2, inputs=2)
    with torch.no_grad():
        made.router.rows["0"].copy_(torch.tensor([1.0, 0.0]))
        made.router.rows["1"].copy_(torch.tensor([0.9, 0.1]))
    x = torch.cat(
        [torch.tensor([[2.0, 0.1]]).repeat(8, 1), torch.tensor([[-1.0, 0.0], [0.0, -1.0]])]
    )
    grow(made, 3, WorstServed(WorstServed.Config(share=0.2)), x)
    wanted = torch.nn.functional.normalize(torch.tensor([-0.5, -0.5]), dim=0)
    torch.testing.assert_close(made.router.prototypes_ED[2], wanted)
    grow(made, 4, WorstServed(WorstServed.Config(share=0.1)), x)  # the third is counted in now
    assert made.router.prototypes_ED[3].tolist() in ([-1.0, 0.0], [0.0, -1.0])


def test_worst_served_needs_prototypes_and_samples() -> None:
    start = WorstServed(WorstServed.Config())
    with pytest.raises(InputError, match="got none"):
        grow(layer(CONFIG), 4, start)
    with pytest.raises(InputError, match="use router prototype"):
        grow(layer(LinearRouter.Config()), 4, start, torch.randn(4, 5))
    with pytest.raises(ValueError, match="share"):
        WorstServed.Config(share=0.0)


def test_growth_chain_and_restoring() -> None:
    check_growth_and_restoring(lambda: layer(CONFIG), torch.randn(4, 5))
    chain = layer(CONFIG, cls=ChainLayer, rounds=2)
    grow(chain, 4, WorstServed(WorstServed.Config()), torch.randn(9, 5))
    assert torch.equal(*(router.rows["3"] for router in chain.routers)) is False
    chain(torch.randn(4, 5)).sum().backward()
    assert all(row.grad is not None for router in chain.routers for row in router.rows.values())


def test_copies_and_suppressed_experts() -> None:
    made, x = layer(CONFIG), torch.randn(6, 5)
    before = made(x)
    grow(made, 4, CloneSplit(CloneSplit.Config()))
    torch.testing.assert_close(made(x), before)
    suppressed = layer(CONFIG)
    grow(suppressed, 4, LogitOffset(LogitOffset.Config(offset=30.0, steps=4)))
    torch.testing.assert_close(suppressed.eval()(x), before, rtol=1e-4, atol=1e-5)
    assert float(suppressed.router.rows["3"].detach().abs().sum()) > 0


def test_half_precision_scores_are_taken_in_float32() -> None:
    made = layer(CONFIG).to(torch.bfloat16)
    assert made.router(torch.randn(4, 5).bfloat16(), RouterContext()).dtype == torch.float32
    assert made(torch.randn(4, 5).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["temperature", "contrastive_temperature"])
def test_impossible_settings(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        PrototypeRouter.Config(**{name: 0.0})
