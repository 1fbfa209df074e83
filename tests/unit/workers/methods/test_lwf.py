"""LwF: the distillation by formula, one head or one for each known task, and the old model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.file import ConfigError
from tests.fakes import tiny
from tests.unit.workers.methods.contexts import CLASSIFICATION, around, build, data, net, samples
from workers.methods import METHODS
from workers.parsing import choose
from workers.supervised.objectives import Classification


def of_tasks(*tasks: int) -> Classification:
    """An objective that knows the task of each class."""
    objective = Classification(Classification.Config())
    objective.know_tasks(lambda: torch.tensor(tasks))
    return objective


def end(method: Any, model: nn.Module, labels: list[int], objective: Any = CLASSIFICATION) -> None:
    x = torch.zeros(len(labels), 3)
    samples = data(x, torch.tensor(labels))
    method.end_stage(around(model, samples=samples, objective=objective))


def softened(logits: Tensor, temperature: float) -> Tensor:
    """p^(1/T), made to add up to 1, as in the paper's equation 3."""
    p = logits.softmax(-1) ** (1 / temperature)
    return p / p.sum(-1, keepdim=True)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_one_head_of_all_classes_seen(temperature: float) -> None:
    method, old, new = build("lwf", temperature=temperature, weight=0.7), net(0), net(1)
    (x, _), y = samples(), torch.tensor([2, 3, 3, 2, 1, 0])
    assert torch.equal(method.loss(new, x, y), nn.functional.cross_entropy(new(x), y))
    end(method, old, [0, 2, 2, 1])
    q, p = softened(old(x)[:, :3], temperature), softened(new(x)[:, :3], temperature)
    wanted = nn.functional.cross_entropy(new(x), y) - 0.7 * (q * p.log()).sum(-1).mean()
    assert torch.allclose(method.loss(new, x, y), wanted)


def test_a_head_for_each_known_task() -> None:
    objective = of_tasks(1, 0, 0, 1)
    method, old, new = build("lwf", objective=objective), net(0), net(1)
    (x, _), y = samples(), torch.tensor([0, 3, 3, 0, 3, 0])
    end(method, old, [1, 2, 2], objective)
    end(method, old, [3, 0], objective)
    distilled = torch.zeros(())
    for head in ([0, 3], [1, 2]):
        q, p = softened(old(x)[:, head], 2.0), softened(new(x)[:, head], 2.0)
        distilled = distilled - (q * p.log()).sum(-1).mean()
    own = nn.functional.cross_entropy(new(x)[:, [0, 3]], y // 3)
    assert torch.allclose(method.loss(new, x, y), own + distilled)


def test_the_old_model_stays_what_it_was() -> None:
    method, model = build("lwf"), net()
    model[1] = nn.Dropout(0.5)
    end(method, model, [0, 1])
    x, y = samples()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    first = method.state()
    loss = method.loss(model, x, y)
    loss.backward()
    after = method.state()
    assert all(torch.equal(first[name], after[name]) for name in first)
    assert not torch.equal(first["teacher/0.weight"], model[0].weight)
    model.eval()
    assert torch.equal(method.loss(model, x, y), method.loss(model, x, y))
    end(method, model, [2])
    assert torch.equal(method.state()["teacher/0.weight"], model[0].weight)
    assert method.state()["seen"].tolist() == [0, 1, 2]


def test_state_round_trip() -> None:
    method, again = build("lwf"), build("lwf")
    again.load_state(method.state(), net(1))
    x, y = samples()
    end(method, net(0), [0, 1, 3])
    again.load_state(method.state(), net(1))
    assert torch.equal(again.loss(net(2), x, y), method.loss(net(2), x, y))


def test_what_it_cannot_ask_is_refused() -> None:
    with pytest.raises(ConfigError, match="lwf distils probabilities of classes"):
        tiny(stream={"kind": "linear_clusters"}, lanes=[{"method": "lwf"}])
    views = [{"name": "a", "rotate": 90.0}, {"name": "b"}]
    layer = {"router": {"kind": "oracle_domain", "oracle": True}}
    told = {
        "stream": {"kind": "domains", "domains": views},
        "model": {"experts": 4, "head": {"kind": "moe", "hidden": [16], "layer": layer}},
    }
    tiny(**told)
    with pytest.raises(ConfigError, match="without telling it domains"):
        tiny(**told, lanes=[{"method": "lwf"}])


@pytest.mark.parametrize("name", ["weight", "temperature"])
def test_settings_are_positive(name: str) -> None:
    _, config, problems = choose(METHODS, {"kind": "lwf", name: 0.0}, "method")
    assert config is None
    assert f"{name} must be positive" in str(problems[0])
