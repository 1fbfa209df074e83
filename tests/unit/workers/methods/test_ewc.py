"""EWC: the Fisher information by formula, and one anchor for the penalties of all tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from orchestrator.config.file import ConfigError
from tests.fakes import tiny
from tests.unit.workers.methods.contexts import around, build, data, net, samples
from workers.methods import METHODS
from workers.parsing import choose


def learnt(method: Any, model: Any, stage: int = 0, count: int = 6) -> None:
    method.end_stage(around(model, samples=data(*samples(count, stage)), stage=stage))


def squared(model: Any, x: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Mean over samples of squared gradients of log p(label | x), sample by sample."""
    total = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for one, label in zip(x, labels, strict=True):
        log_p = functional.log_softmax(model(one[None]), -1)[0, label]
        for sum_, gradient in zip(
            total, torch.autograd.grad(log_p, list(model.parameters())), strict=True
        ):
            sum_ += gradient.square()
    return [sum_ / len(x) for sum_ in total]


def test_the_empirical_fisher_is_that_of_the_data_s_labels() -> None:
    model, (x, y) = net(), samples()
    method = build("ewc", labels="data")
    learnt(method, model)
    for (_, parameter, known), wanted in zip(method.known, squared(model, x, y), strict=True):
        assert torch.allclose(known["importance"], wanted, rtol=1e-5, atol=1e-9)
        assert torch.equal(known["anchor"], parameter)


@pytest.mark.parametrize("labels", ["model", "data"])
def test_the_samples_are_drawn_by_the_stage_s_seed(labels: str) -> None:
    first, again = (build("ewc", seed, labels=labels, samples=3) for seed in (0, 7))
    learnt(first, net())
    learnt(again, net())
    one, two = first.state(), again.state()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_labels_of_the_model_give_the_fisher_information() -> None:
    """Over many draws: E_{y ~ p} of the squared gradient, summed over all labels by hand."""
    model, (x, _) = net(), samples(1)
    p = model(x).softmax(-1)[0].detach()
    by_label = [squared(model, x, torch.tensor([label])) for label in range(4)]
    wanted = [
        sum(p[label] * found[place] for label, found in enumerate(by_label)) for place in range(4)
    ]
    method = build("ewc", samples=4000)
    x_many, y_many = x.expand(4000, 3).clone(), torch.zeros(4000, dtype=torch.int64)
    method.end_stage(around(model, samples=data(x_many, y_many)))
    for (_, _, known), exact in zip(method.known, wanted, strict=True):
        assert torch.allclose(known["importance"], exact, rtol=0.1, atol=0.02)


def test_one_anchor_pulls_as_the_penalties_of_all_tasks_do() -> None:
    method, model = build("ewc", labels="data", strength=3.0), net()
    tasks = []
    for stage in range(3):
        learnt(method, model, stage)
        x, y = samples(6, stage)
        tasks.append((squared(model, x, y), [p.detach().clone() for p in model.parameters()]))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.after_backward(around(model))
    for place, parameter in enumerate(model.parameters()):
        wanted = sum(3.0 * f[place] * (parameter.detach() - at[place]) for f, at in tasks)
        assert torch.allclose(parameter.grad, wanted, rtol=1e-4, atol=1e-5)


def test_what_a_phase_has_frozen_is_important_too() -> None:
    model, (x, y) = net(), samples()
    wanted = squared(model, x, y)
    model[0].requires_grad_(False)
    method = build("ewc", labels="data")
    learnt(method, model)
    assert torch.allclose(method.known.of("0.weight")["importance"], wanted[0], rtol=1e-5)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_labels_are_drawn_where_there_are_some(tmp_path: Any) -> None:
    numbers = {"kind": "linear_clusters"}
    with pytest.raises(ConfigError, match="no labels of classes"):
        tiny(stream=numbers, lanes=[{"method": "ewc"}])
    tiny(stream=numbers, lanes=[{"method": {"kind": "ewc", "labels": "data"}}])


def test_samples_must_be_some() -> None:
    for kind in ("ewc", "online_ewc", "mas"):
        _, config, problems = choose(METHODS, {"kind": kind, "samples": 0}, "method")
        assert config is None
        assert "samples must be at least 1" in str(problems[0])
