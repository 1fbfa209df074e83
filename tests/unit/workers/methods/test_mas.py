"""MAS: importance is the magnitude of the outputs' squared norm's gradient."""

from __future__ import annotations

import torch

from tests.unit.workers.methods.contexts import around, build, data, net, samples
from workers.supervised.objectives import Classification


def by_hand(model: torch.nn.Module, x: torch.Tensor, own: torch.Tensor) -> list[torch.Tensor]:
    """Mean over samples of |d |f(x)|^2 / d theta|, f being the outputs of ``own`` classes."""
    total = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for one, classes in zip(x, own, strict=True):
        norm = model(one[None])[0, classes].square().sum()
        for sum_, gradient in zip(
            total, torch.autograd.grad(norm, list(model.parameters())), strict=True
        ):
            sum_ += gradient.abs()
    return [sum_ / len(x) for sum_ in total]


def test_importance_adds_up_over_tasks() -> None:
    method, model = build("mas"), net()
    wanted = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for stage in range(2):
        with torch.no_grad():
            model[0].weight.add_(stage)
        x, y = samples(5, stage)
        method.end_stage(around(model, samples=data(x, y), stage=stage))
        found = by_hand(model, x, torch.arange(4).expand(5, 4))
        wanted = [old + new for old, new in zip(wanted, found, strict=True)]
    for (_, parameter, known), exact in zip(method.known, wanted, strict=True):
        assert torch.allclose(known["importance"], exact, rtol=1e-5, atol=1e-7)
        assert torch.equal(known["anchor"], parameter)


def test_only_outputs_of_the_known_task_count() -> None:
    objective = Classification(Classification.Config())
    objective.know_tasks(lambda: torch.tensor([0, 0, 1, 1]))
    method, model = build("mas", objective=objective), net()
    x, y = samples()
    own = torch.tensor([[0, 1], [2, 3]])[y // 2]
    method.end_stage(around(model, samples=data(x, y), objective=objective))
    wanted = by_hand(model, x, own)
    for (_, _, known), exact in zip(method.known, wanted, strict=True):
        assert torch.allclose(known["importance"], exact, rtol=1e-5, atol=1e-7)
