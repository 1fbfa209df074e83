"""Loss and gradient of a step, beside Avalanche's on the same weights and the same samples.

Runs where avalanche-lib 0.6.0 is installed (an environment of its own: benchmarks/README.md); where
the two differ, the test says in which factor or term, and compares what is left.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.methods import build, over
from workers.methods.base import MethodContext
from workers.streams import Part, TaskData

pytest.importorskip("avalanche")

OLD_X = torch.randn(24, 5, generator=torch.Generator().manual_seed(1))
OLD_Y = torch.arange(24) % 3
NEW_X = torch.randn(16, 5, generator=torch.Generator().manual_seed(2))
NEW_Y = 3 + torch.arange(16) % 3
Gradients = dict[str, Tensor]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 6))


def context(model: nn.Module, task: int = 0) -> MethodContext:
    part = Part(OLD_X, OLD_Y)
    data = TaskData.of(train=part, test=part, source="t")
    base = over(data)
    stage = replace(base.stage, index=task)
    return replace(base, model=model, optimizer=torch.optim.SGD(model.parameters()), stage=stage)


def moved(model: nn.Module) -> None:
    """Where the second task has taken the parameters."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter += 0.1 * drawn


def gradients(model: nn.Module) -> Gradients:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def cross_entropy(model: nn.Module) -> Tensor:
    return functional.cross_entropy(model(NEW_X), NEW_Y)


def cross_entropy_gradients(model: nn.Module) -> Gradients:
    """Of the second task's loss alone."""
    cross_entropy(model).backward()
    return gradients(model)


def ours(method: Any, model: nn.Module) -> tuple[float, Gradients]:
    """A step of the second task: the loss that is told, and the gradients that are followed."""
    x, y = method.extend_batch(NEW_X, NEW_Y)
    loss = method.loss(model, x, y)
    loss.backward()
    method.after_backward(context(model, 1))
    return float(loss.detach()), gradients(model)


def same(one: Gradients, other: Gradients) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=1e-6)


def strategy(model: nn.Module, **more: Any) -> Any:
    """What Avalanche's plugins look at in the second experience."""
    clock = SimpleNamespace(train_exp_counter=1)
    return SimpleNamespace(model=model, device="cpu", clock=clock, loss=None, **more)


def dataset() -> Any:
    """The old samples with a task label, as Avalanche's loaders give them."""
    return torch.utils.data.TensorDataset(OLD_X, OLD_Y, torch.zeros(24, dtype=torch.int64))


# ---------------------------------------------------------------- regularisation


def test_ewc() -> None:
    """Avalanche squares gradients of batch means and has no half: with batches of one sample and
    labels of the data, twice its lambda is our strength."""
    from avalanche.training.plugins import EWCPlugin
    from avalanche.training.utils import copy_params_dict

    model, method = net(), build("ewc", strength=20.0, samples=24, labels="data")
    plugin, optimizer = EWCPlugin(10.0), torch.optim.SGD(model.parameters())
    loss = nn.CrossEntropyLoss()
    found = plugin.compute_importances(model, loss, optimizer, dataset(), "cpu", 1)
    plugin.update_importances(found, 0)
    plugin.saved_params[0] = copy_params_dict(model)
    model.zero_grad()
    method.end_stage(context(model))
    moved(model)
    theirs = strategy(model)
    theirs.loss = cross_entropy(model)
    plain = float(theirs.loss.detach())
    plugin.before_backward(theirs)
    theirs.loss.backward()
    expected = gradients(model)
    assert float(theirs.loss.detach()) > plain * 1.01, "the penalty counts"
    told, found_ours = ours(method, model)
    assert told == pytest.approx(plain, rel=1e-5), "we report the task's loss, without the penalty"
    same(found_ours, expected)


def test_mas() -> None:
    """The same after the first task but for the half; later Avalanche mixes old and new importance
    by alpha, the paper (and we) add them up."""
    from avalanche.training.plugins import MASPlugin
    from avalanche.training.utils import copy_params_dict

    model, method = net(), build("mas", strength=6.0, samples=24)
    plugin = MASPlugin(lambda_reg=3.0)
    experience = SimpleNamespace(dataset=dataset())
    theirs = strategy(
        model,
        experience=experience,
        train_mb_size=1,
        optimizer=torch.optim.SGD(model.parameters()),
    )
    plugin.importance = plugin._get_importance(theirs)
    plugin.params = dict(copy_params_dict(model))
    model.zero_grad()
    method.end_stage(context(model))
    moved(model)
    theirs.loss = cross_entropy(model)
    plugin.before_backward(theirs)
    theirs.loss.backward()
    expected = gradients(model)
    same(ours(method, model)[1], expected)


def test_si() -> None:
    """Avalanche multiplies the path integral by 0.0015, cuts importance at 0.001 and keeps negative
    ones: compared below the cut, where it is positive. On a CPU what it takes for the weights
    before a step are the live ones, so by itself it finds no path at all: they are copied here."""
    from avalanche.training.plugins import SynapticIntelligencePlugin as Plugin

    damping = 0.1
    model, method = net(), build("si", strength=4e4 * 0.0015, damping=damping)
    ewc: Any = ({}, {})
    syn: Any = {k: {} for k in ("old_theta", "new_theta", "grad", "trajectory", "cum_trajectory")}
    Plugin.create_syn_data(model, ewc, syn, set())
    Plugin.init_batch(model, ewc, syn, set())
    copied(ewc[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(model(OLD_X), OLD_Y).backward()
        Plugin.pre_update(model, syn, set())
        copied(syn["old_theta"])
        method.after_backward(context(model))
        optimizer.step()
        Plugin.post_update(model, syn, set())
        method.after_step(context(model))
    Plugin.update_ewc_data(model, ewc, syn, 0.001, set(), eps=damping)
    assert all((importance.data < 0.001).all() for importance in ewc[1].values()), "below the cut"
    model.zero_grad()
    moved_in_task = {n: p.detach().clone() for n, p in model.named_parameters()}
    method.after_backward(context(model, 1))  # the second stage begins: consolidated here
    moved(model)
    theirs = cross_entropy(model) + Plugin.compute_ewc_loss(model, ewc, set(), "cpu", lambd=4e4)
    theirs.backward()
    expected = gradients(model)
    assert all(torch.equal(method.known.of(n)["anchor"], p) for n, p in moved_in_task.items())
    plain, found = cross_entropy_gradients(model), ours(method, model)[1]
    kept = {n: ewc[1][n].data.view_as(g) >= 0 for n, g in found.items()}
    assert sum(int(mask.sum()) for mask in kept.values()) > 70, "of 150 parameters"
    same({n: g[kept[n]] for n, g in found.items()}, {n: g[kept[n]] for n, g in expected.items()})
    for name, mask in kept.items():
        torch.testing.assert_close(found[name][~mask], plain[name][~mask])
    assert not all(torch.allclose(found[n], plain[n], rtol=1e-2) for n in found), "it counts"


def copied(weights: Any) -> None:
    """Make them those of now."""
    for weight in weights.values():
        weight.data = weight.data.clone()


def test_lwf() -> None:
    """The same gradient; the loss is a Kullback-Leibler divergence there, a cross entropy here:
    they differ by the entropy of the old model's answers."""
    from avalanche.training.regularization import LearningWithoutForgetting

    model, method = net(), build("lwf", weight=1.5, temperature=2.0)
    before = net()
    method.end_stage(context(model))
    moved(model)
    plugin = LearningWithoutForgetting(alpha=1.5, temperature=2.0)
    outputs = model(NEW_X)
    distance = plugin._distillation_loss(outputs, before(NEW_X).detach(), {0, 1, 2})
    loss = functional.cross_entropy(outputs, NEW_Y) + 1.5 * distance
    loss.backward()
    expected = gradients(model)
    told, found = ours(method, model)
    q = (before(NEW_X)[:, :3] / 2).softmax(-1)
    entropy = -(q * q.log()).sum(-1).mean()
    assert told == pytest.approx(float((loss + 1.5 * entropy).detach()), rel=1e-5)
    same(found, expected)


# ---------------------------------------------------------------- memory


def test_agem() -> None:
    """The same projection on the same remembered samples; which are remembered differs (ours: a
    buffer of the whole stream, theirs: so many of each task)."""
    from avalanche.training.plugins import AGEMPlugin

    model, method = net(), build("agem", buffer=24, batch=24)
    method.end_stage(context(model))
    moved(model)
    plugin = AGEMPlugin(24, 24)
    plugin.buffers, plugin.buffer_dliter = [dataset()], iter([(OLD_X, OLD_Y, OLD_Y * 0)])
    theirs = strategy(
        model,
        optimizer=torch.optim.SGD(model.parameters()),
        _criterion=nn.CrossEntropyLoss(),
    )
    plugin.before_training_iteration(theirs)
    cross_entropy(model).backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    plugin.after_backward(theirs)
    expected = gradients(model)
    assert any(not torch.equal(plain[name], expected[name]) for name in plain), "it conflicts"
    same(ours(method, model)[1], expected)


def remembering(kind: str, **options: Any) -> tuple[Any, nn.Module]:
    """A method that has seen all old samples and draws all of them at every step."""
    model = net()
    method = build(kind, buffer=24, batch=24, **options)
    if kind == "replay":
        method.end_stage(context(model))
    else:
        method.extend_batch(OLD_X, OLD_Y)
        method.after_backward(context(model))
    moved(model)
    return method, model


def test_replay() -> None:
    """One mean over new and old samples in both."""
    method, model = remembering("replay")
    x, y = torch.cat([NEW_X, OLD_X]), torch.cat([NEW_Y, OLD_Y])
    loss = nn.CrossEntropyLoss()(model(x), y)
    loss.backward()
    expected = gradients(model)
    told, found = ours(method, model)
    assert told == pytest.approx(float(loss.detach()), rel=1e-5)
    same(found, expected)


def test_er_ace() -> None:
    """Avalanche halves the sum, and lets classes that were not seen yet compete on old samples;
    here all have been seen."""
    from avalanche.training.regularization import ACECriterion

    method, model = remembering("er_ace")
    loss = ACECriterion()(model(NEW_X), NEW_Y, model(OLD_X), OLD_Y)
    (2 * loss).backward()
    expected = gradients(model)
    told, found = ours(method, model)
    assert told == pytest.approx(2 * float(loss.detach()), rel=1e-5)
    same(found, expected)


@pytest.mark.parametrize(("kind", "alpha", "beta"), [("der", 0.5, 0.0), ("der++", 0.3, 0.7)])
def test_der(kind: str, alpha: float, beta: float) -> None:
    """Avalanche replays one batch for both terms, and stores outputs of the task's end, of a memory
    balanced by class; on the same samples and outputs a step is the same."""
    from avalanche.training.supervised import DER

    method, model = remembering(kind, alpha=alpha, **({"beta": beta} if beta else {}))
    stored = net()(OLD_X).detach()
    theirs = DER(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        mem_size=24,
        batch_size_mem=24,
        alpha=alpha,
        beta=beta,
        train_mb_size=16,
        evaluator=None,
    )
    theirs.replay_loader = iter([(OLD_X, OLD_Y, OLD_Y * 0, stored)])
    theirs.dataloader = [[NEW_X, NEW_Y, NEW_Y * 0]]
    theirs._stop_training = False
    theirs.training_epoch()
    expected = gradients(model)
    told, found = ours(method, model)
    assert told == pytest.approx(float(theirs.loss.detach()), rel=1e-5)
    same(found, expected)
