"""Online EWC: the information decays, the last task is the anchor."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.methods.contexts import build, net, samples
from tests.unit.workers.methods.test_ewc import learnt, squared
from workers.methods import METHODS
from workers.parsing import choose


def test_information_decays_and_the_anchor_is_the_last_task_s() -> None:
    method, model = build("online_ewc", labels="data", decay=0.5), net()
    wanted = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for stage in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        learnt(method, model, stage)
        found = squared(model, *samples(6, stage))
        wanted = [0.5 * old + new for old, new in zip(wanted, found, strict=True)]
    for (_, parameter, known), exact in zip(method.known, wanted, strict=True):
        assert torch.allclose(known["importance"], exact, rtol=1e-5, atol=1e-9)
        assert torch.equal(known["anchor"], parameter)


def test_the_anchor_does_not_follow_the_parameter() -> None:
    method, model = build("online_ewc", labels="data"), net()
    learnt(method, model)
    anchor = method.known.of("0.weight")["anchor"].clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert torch.equal(method.known.of("0.weight")["anchor"], anchor)


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_decays_from_0_to_1(decay: float) -> None:
    _, config, problems = choose(METHODS, {"kind": "online_ewc", "decay": decay}, "method")
    assert config is None
    assert "decay must be from 0 to 1" in str(problems[0])
