"""What routers are shown of the probe: labels, domains, losses under each expert, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.workers.moe.routers.parts import head, layer
from workers.contract import InputError
from workers.edits import Cause, EditProbe, FitRouter
from workers.moe.growth.fitting import only
from workers.moe.layers import ChainLayer
from workers.moe.routed import observing
from workers.moe.routers import KMeansRouter, LinearRouter, RidgeRouter, TeacherLabelsRouter
from workers.moe.selectors import TopK

X, Y, D = torch.randn(12, 5), torch.arange(12) % 3, torch.arange(12) // 6


class Asked(KMeansRouter):
    """Keeps what it was asked to fit to."""

    fit_targets = ("labels", "domains", "losses", "errors")

    def fit(self, x_TD: torch.Tensor, y: torch.Tensor, seed: int) -> None:
        self.asked = (x_TD.clone(), y.clone(), seed)


def edit(targets: str, layers: tuple[str, ...] | None = None) -> FitRouter:
    cause = Cause(policy="test", trigger="test")
    common: dict[str, Any] = {"id": "a", "stage": "s", "after_interval": 0, "revision": 1}
    return FitRouter(**common, seed=5, cause=cause, targets=targets, layers=layers)


def probe(losses: Any = None) -> EditProbe:
    return EditProbe(X, Y, D, losses)


def asked(module: Any) -> None:
    for part in module.modules():
        if isinstance(part, KMeansRouter):
            part.__class__ = Asked


def fit(module: Any, targets: str, losses: Any = None) -> None:
    edit(targets).plan(module, probe(losses), module)()


@pytest.mark.parametrize("targets", ["labels", "domains"])
def test_samples_targets_and_what_each_layer_reads(targets: str) -> None:
    model = head(KMeansRouter.Config())
    asked(model)
    with observing(model) as seen:
        model(X)
    fit(model, targets)
    for name in ("layers.0", "layers.1"):
        x, y, _ = model.get_submodule(name).router.asked
        torch.testing.assert_close(x, seen[name][0].x)
        assert torch.equal(y, Y if targets == "labels" else D)


def test_losses_are_those_under_one_expert_alone() -> None:
    made = layer(KMeansRouter.Config(), selector=TopK.Config(k=2))
    asked(made)
    before = made(X).clone()
    fit(made, "losses", lambda outputs: outputs.square().sum(1))
    _, cost, _ = made.router.asked
    wanted = torch.stack([made.expert(e)(X).square().sum(1) for e in range(3)], 1)
    torch.testing.assert_close(cost, wanted)
    torch.testing.assert_close(made(X), before)


def test_losses_of_sequences_go_to_each_token() -> None:
    made = layer(KMeansRouter.Config())
    asked(made)
    x = torch.randn(4, 3, 5)
    edit("losses").plan(made, EditProbe(x, losses=lambda y: y.square().sum((1, 2))), made)()
    _, cost, _ = made.router.asked
    assert cost.shape == (12, 3)
    assert torch.equal(cost[:3], cost[:1].repeat(3, 1))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_errors_are_those_of_the_equation(k: int) -> None:
    made = layer(KMeansRouter.Config(), selector=TopK.Config(k=k, weights="full"))
    asked(made)
    fit(made, "errors")
    _, cost, _ = made.router.asked
    dense = sum(made.expert(e)(X) for e in range(3))
    wanted = [(made.expert(e)(X) - dense / (3 / k)).square().sum(1) for e in range(3)]
    torch.testing.assert_close(cost, torch.stack(wanted, 1))


def test_each_round_of_a_chain_is_shown_what_it_reads() -> None:
    made = layer(KMeansRouter.Config(), cls=ChainLayer, rounds=2)
    asked(made)
    with observing(made) as seen:
        made(X)
    fit(made, "errors")
    for router, routed in zip(made.routers, seen[""], strict=True):
        torch.testing.assert_close(router.asked[0], routed.x)
    assert made.routers[0].asked[2] != made.routers[1].asked[2]


def test_only_one_expert_runs_inside_the_block() -> None:
    made = layer(LinearRouter.Config())
    with only(made, 2):
        torch.testing.assert_close(made(X), made.expert(2)(X))
    assert not torch.allclose(made(X), made.expert(2)(X))


def test_what_is_refused() -> None:
    cases = {
        "trained by gradients": (LinearRouter.Config(), "labels", probe()),
        "cannot be fitted to losses": (RidgeRouter.Config(), "losses", probe()),
        "cannot be fitted to labels": (TeacherLabelsRouter.Config(), "labels", probe()),
        "no losses of probe": (KMeansRouter.Config(), "losses", probe()),
        "no domains of probe": (RidgeRouter.Config(), "domains", EditProbe(X, Y)),
        "no labels of probe": (RidgeRouter.Config(), "labels", None),
        "2 labels, one for each token": (
            RidgeRouter.Config(),
            "labels",
            EditProbe(X, Y[:, None].repeat(1, 2)),
        ),
    }
    for words, (router, targets, samples) in cases.items():
        made = layer(router)
        with pytest.raises(InputError, match=words):
            edit(targets).plan(made, samples, made)
    with pytest.raises(InputError, match="no routed layers"):
        edit("labels", ("other",)).plan(made, probe(), made)
