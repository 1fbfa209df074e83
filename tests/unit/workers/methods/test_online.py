"""ER-ACE, DER and DER++: losses by their formulas, whole and in parts; what is remembered when."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.config.file import ConfigError
from tests.fakes import tiny
from tests.methods import NOTHING, build, numbered, over
from tests.tokens import text_lane, write_texts
from workers.methods import METHODS
from workers.methods.base import MethodContext
from workers.parsing import choose
from workers.supervised.objectives import Classification

X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
OLD_X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
OLD_Y = torch.tensor([0, 1, 2, 0, 1, 2])


def net(outputs: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, outputs))


def context(model: nn.Module, task: int = 0) -> MethodContext:
    base = over(numbered(0, 1))
    return replace(base, model=model, stage=replace(base.stage, index=task))


def step(method: Any, model: nn.Module, x: torch.Tensor, y: torch.Tensor, task: int = 0) -> Any:
    """One step's batch and loss; the model does not change."""
    xs, ys = method.extend_batch(x, y)
    loss = method.loss(model, xs, ys)
    method.after_backward(context(model, task))
    return xs, ys, loss


def in_parts(method: Any, model: nn.Module, x: torch.Tensor, y: Any, cuts: list[int]) -> float:
    """The loss put together from parts, each weighted by its share of the samples."""
    total = 0.0
    for start, stop in zip([0, *cuts], [*cuts, len(y)], strict=True):
        part = slice(start, stop)
        total += float(method.loss(model, x[part], y[part]).detach()) * (stop - start) / len(y)
    return total


def cross_entropy(logits: list[float], label: int, classes: list[int]) -> float:
    return math.log(sum(math.exp(logits[k]) for k in classes)) - logits[label]


# ---------------------------------------------------------------- ER-ACE


def test_er_ace_is_the_sum_of_both_masked_cross_entropies() -> None:
    method, model = build("er_ace", buffer=20, batch=4), net()
    y = torch.tensor([3, 4, 4, 3, 3, 4, 3, 4])
    step(method, model, OLD_X, OLD_Y)
    xs, ys, loss = step(method, model, X, y, task=1)
    assert len(ys) == 12
    logits = model(xs).tolist()
    labels = ys.y.tolist()
    assert set(labels[8:]) <= {0, 1, 2}
    new = sum(cross_entropy(logits[i], labels[i], [3, 4]) for i in range(8)) / 8
    old = sum(cross_entropy(logits[i], labels[i], [0, 1, 2, 3, 4]) for i in range(8, 12)) / 4
    assert float(loss.detach()) == pytest.approx(new + old, rel=1e-5)
    for cuts in ([6], [3, 6, 9], [8], [5, 10]):
        assert in_parts(method, model, xs, ys, cuts) == pytest.approx(new + old, rel=1e-5)


def test_er_ace_leaves_outputs_of_other_classes_alone() -> None:
    """A first step gives no gradient to rows of the last layer whose class is not in it."""
    method, model = build("er_ace"), net()
    *_, loss = step(method, model, X, torch.tensor([3, 4, 4, 3, 3, 4, 3, 4]))
    loss.backward()
    moved = model[2].weight.grad.abs().sum(1) > 0  # type: ignore[index, union-attr]
    assert moved.tolist() == [False, False, False, True, True, False]


# ---------------------------------------------------------------- DER and DER++


@pytest.mark.parametrize(("kind", "alpha", "beta"), [("der", 0.3, 0.0), ("der++", 0.7, 0.4)])
def test_der_is_its_formula_with_outputs_of_the_moment_of_storing(
    kind: str, alpha: float, beta: float
) -> None:
    options = {"beta": beta} if beta else {}
    method = build(kind, buffer=20, batch=4, alpha=alpha, **options)
    before, model = net(), net()
    step(method, model, OLD_X, OLD_Y)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.sin(torch.arange(parameter.numel())).view_as(parameter))
    y = torch.tensor([3, 4, 4, 3, 3, 4, 3, 4])
    xs, ys, loss = step(method, model, X, y, task=1)
    assert len(ys) == 8 + 4 * (2 if beta else 1)
    outputs = model(xs)
    expected = nn.functional.cross_entropy(outputs[:8], y)
    expected = expected + alpha * nn.functional.mse_loss(outputs[8:12], before(xs[8:12]))
    if beta:
        labels = [int(OLD_Y[(row == OLD_X).all(1)]) for row in xs[12:]]
        again = nn.functional.cross_entropy(outputs[12:], torch.tensor(labels))
        expected = expected + beta * again
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for cuts in ([8], [4, 8, 10], [7]):
        assert in_parts(method, model, xs, ys, cuts) == pytest.approx(
            float(loss.detach()), rel=1e-5
        )
    assert not torch.allclose(outputs[8:12], before(xs[8:12]), atol=1e-3), "the model moved on"


def test_der_compares_outputs_of_the_sample_s_task_alone_where_that_is_known() -> None:
    method, model, before = build("der", buffer=20, batch=4, alpha=1.0), net(), net()
    method.objective = Classification(Classification.Config())
    method.objective.know_tasks(lambda: torch.tensor([0, 0, 0, 1, 1, 1]))
    step(method, model, OLD_X, OLD_Y)
    with torch.no_grad():
        model[2].bias += torch.tensor([1.0, 2.0, 0.0, 9.0, 9.0, 9.0])  # type: ignore[index, operator]
    y = torch.tensor([3, 4, 4, 3, 3, 4, 3, 4])
    xs, _, loss = step(method, model, X, y, task=1)
    outputs = model(xs)
    expected = nn.functional.cross_entropy(outputs[:8, 3:], y - 3)
    expected = expected + nn.functional.mse_loss(outputs[8:, :3], before(xs[8:])[:, :3])
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_der_without_weights_is_plain_training() -> None:
    method, model = build("der", alpha=0.0), net()
    step(method, model, OLD_X, OLD_Y)
    y = torch.tensor([3, 4, 4, 3, 3, 4, 3, 4])
    *_, loss = step(method, model, X, y)
    plain = nn.functional.cross_entropy(model(X), y)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)


def test_outputs_are_stored_without_dropout_and_the_model_trains_on() -> None:
    model = nn.Sequential(nn.Dropout(0.5), net())
    model.train()
    method = build("der", buffer=20)
    step(method, model, OLD_X, OLD_Y)
    assert all(part.training for part in model.modules())
    columns = method.memory.columns
    assert torch.equal(columns["x"], OLD_X)
    assert torch.allclose(columns["outputs"], model[1](OLD_X).detach())


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("kind", ["er_ace", "der", "der++"])
def test_state_round_trip_continues_bit_for_bit(kind: str) -> None:
    method, model = build(kind, buffer=5, batch=3), net()
    step(method, model, OLD_X, OLD_Y)
    resumed = build(kind, seed=7, buffer=5, batch=3)
    resumed.load_state(method.state(), NOTHING)
    for seed in range(4):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
        losses = [step(one, model, x, OLD_Y, task=1)[2] for one in (method, resumed)]
        assert torch.equal(*losses)
    first, second = method.state(), resumed.state()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("storage", ["class_balanced", "task_balanced", "greedy"])
def test_what_is_kept_is_the_storage_s_choice(storage: str) -> None:
    method, model = build("der", buffer=6, batch=3, storage=storage), net()
    for task in (0, 1, 2):
        for seed in range(5):
            x = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
            step(method, model, x, torch.tensor([task, 5, task, task, task, task]), task=task)
    labels = method.memory.columns["y"]
    buffer = method.memory.buffer
    assert len(labels) == 6
    if storage == "task_balanced":
        assert buffer.stored == {0: 2, 1: 2, 2: 2}
    else:
        assert sorted(labels.bincount(minlength=6).tolist()) == [0, 0, 1, 1, 2, 2]
        assert buffer.stored == {k: int(n) for k, n in enumerate(labels.bincount()) if n}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "der", "alpha": -1.0}, "alpha must not be negative"),
        ({"kind": "der++", "batch": 0}, "batch must be at least 1"),
        ({"kind": "er_ace", "buffer": 0}, "buffer must be at least 1"),
        ({"kind": "der", "storage": "fifo"}, "allowed: class_balanced, greedy, reservoir"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], told: str) -> None:
    problems = choose(METHODS, settings, "method")[2]
    assert told in str(problems[0])


def test_what_does_not_fit_the_stream_is_refused(tmp_path: Path) -> None:
    """Outputs of every token, and classes of targets that have none."""
    write_texts(tmp_path)
    lanes = [{"method": kind} for kind in ("der", "er_ace")]
    lanes.append({"name": "balanced", "method": {"kind": "replay", "storage": "class_balanced"}})
    lanes.append({"method": "gdumb"})
    with pytest.raises(ConfigError) as caught:
        tiny(**text_lane(tmp_path, policies={}, lanes=lanes))
    told = [problem.found for problem in caught.value.problems]
    assert "outputs of each window of tokens" in told[0]
    assert told[1] == "method 'er_ace' tells classes apart, objective 'language_modelling' has none"
    assert told[2].startswith("buffer 'class_balanced' tells classes apart")
    assert told[3].startswith("buffer 'greedy' tells classes apart")
