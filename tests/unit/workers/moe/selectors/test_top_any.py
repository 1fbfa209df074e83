"""Top-any: learnt thresholds, unserved tokens counted, new experts put where those tokens lie."""

from __future__ import annotations

import pytest
import torch

from workers.contract import InputError
from workers.moe import INITIALISERS, ROUTERS
from workers.moe.experts import LinearExpert
from workers.moe.growth.growable import Growth
from workers.moe.layers import MoELayer
from workers.moe.routed import Birth, observing
from workers.moe.selectors import SELECTORS
from workers.moe.tallies import take_sums

TOPANY = SELECTORS["top_any"]


def _selector(thresholds=(0.0, 0.5, -0.5)):
    selector = TOPANY(TOPANY.Config())
    selector.for_inputs(6)
    selector.experts_changed({n: Birth() for n in range(len(thresholds))})
    with torch.no_grad():
        for parameter, value in zip(selector.thresholds.values(), thresholds, strict=True):
            parameter.fill_(value)
    return selector


def _layer(experts: int = 3, most: int = 6) -> MoELayer:
    config = MoELayer.Config(
        router=ROUTERS["cosine"].Config(), selector=TOPANY.Config(), expert=LinearExpert.Config()
    )
    return MoELayer(config, 6, 4, experts, most)


def test_experts_above_their_threshold_share_a_token_evenly() -> None:
    torch.manual_seed(0)
    selector, logits_TE = _selector(), torch.randn(60, 3)
    found = selector(torch.randn(60, 6), logits_TE, None, True)
    for logits_E, chosen_E, weights_E in zip(
        logits_TE.tolist(), found.chosen_TE.tolist(), found.weights_TE.tolist(), strict=True
    ):
        passes = [r > g for r, g in zip(logits_E, (0.0, 0.5, -0.5), strict=True)]
        assert chosen_E == passes
        wanted = [p / max(1, sum(passes)) for p in passes]
        assert weights_E == pytest.approx(wanted, abs=1e-6)
    assert set(found.chosen_TE.sum(1).tolist()) == {0, 1, 2, 3}


def test_outside_training_an_unserved_token_takes_its_best() -> None:
    selector, logits_TE = _selector(), torch.tensor([[-3.0, -2.0, -4.0], [1.0, -1.0, -9.0]])
    found = selector(torch.zeros(2, 6), logits_TE, None, False)
    assert found.chosen_TE.tolist() == [[False, True, False], [True, False, False]]
    assert found.weights_TE.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    allowed_TE = torch.tensor([[True, False, True], [False, False, False]])
    found = selector(torch.zeros(2, 6), logits_TE, allowed_TE, False)
    assert found.chosen_TE.tolist() == [[True, False, False], [False] * 3]


def test_the_gradient_goes_straight_through_the_sign() -> None:
    selector = _selector()
    logits_TE = torch.tensor([[1.0, 2.0, -1.0]], requires_grad=True)
    found = selector(torch.zeros(1, 6), logits_TE, None, True)
    assert found.chosen_TE.tolist() == [[True, True, False]]
    found.weights_TE[0, 1].backward()
    s = torch.sigmoid(torch.tensor([2.0, 0.5]))
    slope, level = (s * (1 - s)).tolist()
    assert logits_TE.grad[0].tolist() == pytest.approx([0.0, slope / 2, 0.0])
    grads = [float(parameter.grad) for parameter in selector.thresholds.values()]
    assert grads == pytest.approx([0.0, -level / 2, 0.0])


def test_unserved_tokens_are_counted_and_a_new_expert_takes_them() -> None:
    torch.manual_seed(4)
    layer = _layer()
    with torch.no_grad():
        for row in layer.router.rows.values():
            row.copy_(torch.tensor([1.0, 0, 0, 0, 0, 0]))
    x_TD = torch.randn(50, 6)
    x_TD[:, 1] += 4.0
    layer(x_TD)
    told = take_sums(layer)[""]
    idle_T = x_TD[:, 0] <= 0
    count = float(idle_T.sum())
    assert 0 < count < 50
    assert told == {"tokens": [50.0], "unserved": [count], "passed": [50 - count] * 3}
    wanted_D = torch.nn.functional.normalize(x_TD[idle_T].sum(0), dim=0)
    torch.testing.assert_close(layer.selector.direction, wanted_D)
    kept_D = layer.selector.direction.clone()
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    unserved = INITIALISERS["unserved"](INITIALISERS["unserved"].Config())
    layer.record.take_reached()  # as the step's end does
    layer.grow(Growth(experts=4, initialiser=unserved, seed=1, stage="s"))
    state = layer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    torch.testing.assert_close(state["router.rows.3"], wanted_D)
    assert state["selector.thresholds.3"] == 0
    with observing(layer) as seen:
        layer(x_TD)
    assert seen[""][0].chosen[idle_T, 3].all(), "what nobody served is served now"
    other = _layer()
    other.ensure_arch(layer.arch())
    other.load_state_dict(state)
    torch.testing.assert_close(other(x_TD), layer(x_TD), rtol=0, atol=0)
    assert take_sums(layer)[""]["unserved"] == [0.0]
    assert torch.equal(layer.selector.direction, kept_D), "an interval without any keeps it"


def test_a_copy_starts_with_its_parents_threshold() -> None:
    selector = _selector()
    selector.experts_changed({0: Birth(), 1: Birth(), 2: Birth(), 3: Birth("s", 1), 4: Birth("s")})
    assert [p.item() for p in selector.thresholds.values()] == [0.0, 0.5, -0.5, 0.5, 0.0]
    selector.experts_changed({0: Birth(), 3: Birth("s", 1)})
    assert list(selector.thresholds) == ["0", "3"]


def test_thresholds_and_scale_learn() -> None:
    layer = _layer()
    layer(torch.randn(40, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad != 0 for p in layer.selector.thresholds.values())
    assert layer.router.log_scale.grad != 0


def test_without_unserved_tokens_there_is_nowhere_to_put_an_expert() -> None:
    unserved = INITIALISERS["unserved"](INITIALISERS["unserved"].Config())
    with pytest.raises(InputError, match="no unserved tokens"):
        _layer().check(Growth(experts=4, initialiser=unserved, seed=1, stage="s"))


def test_half_precision() -> None:
    layer = _layer().bfloat16()
    assert layer(torch.randn(9, 6).bfloat16()).isfinite().all()
