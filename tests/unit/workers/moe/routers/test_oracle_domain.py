"""The oracle by domain: a token goes to its domain's expert, where domains are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.unit.workers.moe.routers.parts import check_growth_and_restoring, head, layer, told
from tests.unit.workers.moe.routers.settings import lane
from workers.contract import InputError
from workers.edits import EditProbe
from workers.methods.replay import Replay
from workers.moe.growth.surgery import answer
from workers.moe.routed import observing
from workers.moe.routers import LinearRouter, OracleDomainRouter
from workers.moe.selectors import TopK
from workers.moe.stepping import drop_gradients, telling

ORACLE = OracleDomainRouter.Config()
ONE = TopK.Config(k=1, weights="full")


def test_the_expert_is_the_domain() -> None:
    made, x, domains = layer(ORACLE).train(), torch.randn(5, 5), [2, 0, 1, 2, 0]
    with told(made, domains):
        y = made(x)
    wanted = torch.stack([made.expert(d)(x[i]) for i, d in enumerate(domains)])
    torch.testing.assert_close(y, wanted)


def test_other_experts_get_no_gradient_at_all() -> None:
    made = layer(ORACLE, selector=ONE).train()
    with told(made, [1, 1, 1]):
        made(torch.randn(3, 5)).sum().backward()
    drop_gradients({"": made})
    assert [made.expert(e).up.weight.grad is None for e in range(3)] == [True, False, True]


def test_evaluation_in_batches_is_told_each_samples_domain() -> None:
    model, x = head(ORACLE).eval(), torch.randn(6, 5)
    domains = torch.tensor([0, 1, 2, 2, 1, 0])
    with telling(model, domains), observing(model) as seen:
        batches = [model(x[:4]), model(x[4:])]
    chosen = torch.cat([routed.weights.argmax(1) for routed in seen["layers.0"]])
    assert torch.equal(chosen, domains)
    with telling(model, domains):
        torch.testing.assert_close(model(x), torch.cat(batches))
    torch.testing.assert_close(
        answer(model, model, EditProbe(x, None, domains)), torch.cat(batches)
    )
    with telling(model, domains):  # a diagnostic may look several times
        assert torch.equal(model(x), model(x))
    with pytest.raises(InputError, match="was not told it"):
        model(x)  # it knows nothing after the block


def test_a_block_inside_another_is_told_its_own_samples() -> None:
    model, domains = head(ORACLE).eval(), torch.tensor([2, 0])
    with telling(nn.Sequential(model), domains), pytest.raises(InputError):
        model(torch.randn(2, 5))  # the outer block hears of what passes its own model only
    outer = nn.Sequential(model)
    with telling(outer, domains), observing(model) as seen:
        outer(torch.randn(2, 5))
        with telling(model, torch.tensor([1])):
            model(torch.randn(1, 5))
        model.layers[0](torch.randn(2, 5))  # further passes of the outer block's samples
    chosen = [routed.weights.argmax(1).tolist() for routed in seen["layers.0"]]
    assert chosen == [[2, 0], [1], [2, 0]]


def test_sequences_are_told_once_a_sample() -> None:
    made = layer(ORACLE).eval()
    with telling(made, torch.tensor([2, 0])), observing(made) as seen:
        made(torch.randn(2, 3, 5))
    assert seen[""][0].weights.argmax(1).tolist() == [2, 2, 2, 0, 0, 0]


def test_routers_that_need_no_domain_are_told_none() -> None:
    made = layer(LinearRouter.Config()).eval()
    with telling(made, torch.tensor([2, 0])), observing(made) as seen:
        made(torch.randn(2, 5))
    assert seen[""][0].domain_T is None


def test_a_domain_without_an_expert() -> None:
    made = layer(ORACLE, experts=2)
    with pytest.raises(InputError, match=r"domain number 3.*experts"), told(made.train(), [0, 3]):
        made(torch.randn(2, 5))
    with telling(made.eval(), torch.tensor([3, 0])), observing(made) as seen:
        made(torch.randn(2, 5))
    assert seen[""][0].weights.argmax(1).tolist() == [1, 0]


def test_a_domain_keeps_its_expert_when_others_are_removed() -> None:
    made = layer(ORACLE, experts=4).eval()
    made.remove(1)
    x, domains = torch.randn(3, 5), [0, 2, 3]
    with telling(made, torch.tensor(domains)):
        y = made(x)
    wanted = torch.stack([made.expert(d)(x[i]) for i, d in enumerate(domains)])
    torch.testing.assert_close(y, wanted)


def test_growth_and_restoring() -> None:
    check_growth_and_restoring(lambda: layer(ORACLE, experts=4), torch.randn(4, 5), [0, 1, 2, 3])
    router = layer(ORACLE).router
    for refused in (lambda: router.shift_bias(0, 1.0), lambda: router.suppress(0, 1.0, 3)):
        with pytest.raises(InputError, match="sends a domain's tokens to its expert alone"):
            refused()


def test_what_a_plan_refuses() -> None:
    told_so = OracleDomainRouter.Config(oracle=True)
    assert told_so.problems(lane(final_experts=4)) == []
    assert ORACLE.problems(lane(domain_given=True)) == []
    cases = {
        "oracle = true": ORACLE.problems(lane()),
        "of domain 'a'": told_so.problems(lane(("a",))),
        "use router linear": told_so.problems(lane(acts=True)),
        "at least 4": told_so.problems(lane(final_experts=3)),
        "method 'replay' mixes": told_so.problems(
            lane(mixes=True, sections={"method": Replay.Config()})
        ),
    }
    for words, (problem,) in cases.items():
        assert words in str(problem), problem
