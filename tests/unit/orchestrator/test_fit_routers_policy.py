"""The policy that has routers fitted: when it proposes, and what its config refuses."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.policies.fit_routers import FitRouters
from tests.unit.workers.moe.routers.settings import lane
from tests.views import policy, view
from workers.contract import LaneSettings
from workers.edits import FitRouter
from workers.models.classifier import Classifier
from workers.models.heads.mlp import MLP
from workers.models.heads.moe import MoEHead
from workers.moe.layers import MoELayer
from workers.moe.routers import KMeansRouter, LinearRouter, RidgeRouter


def settings(router: Any, **more: Any) -> LaneSettings:
    head = MoEHead.Config(layer=MoELayer.Config(router=router))
    return lane(**{"sections": {"model": Classifier.Config(head=head)}, **more})


def found(config: FitRouters.Config, given: LaneSettings) -> str:
    return " ".join(map(str, config.problems(given)))


@pytest.mark.parametrize(("at", "when"), [("start", 0), ("end", 10)])
def test_it_is_asked_for_once_a_stage(at: Any, when: int) -> None:
    made = policy(FitRouters.Config(at=at, targets="losses", layers=("l",), from_stage=1))
    assert made.first_stage == 1
    asked = {n: made.propose(view(n=n, index=2), None)[0] for n in (0, 1, 9, 10)}
    assert [n for n, edits in asked.items() if edits] == [when]
    (edit,) = asked[when]
    assert isinstance(edit, FitRouter)
    assert (edit.targets, edit.layers, edit.after_interval) == ("losses", ("l",), when)
    assert made.propose(view(n=when, index=0), None)[0] == ()


def test_lanes_that_can_fit() -> None:
    assert found(FitRouters.Config(), settings(RidgeRouter.Config())) == ""
    losses = FitRouters.Config(targets="losses", at="start")
    assert found(losses, settings(KMeansRouter.Config())) == ""


def test_lanes_that_cannot() -> None:
    ridge, fits = RidgeRouter.Config(), FitRouters.Config()
    assert "use router ridge" in found(fits, settings(LinearRouter.Config()))
    assert "use router kmeans_lstsq or teacher_labels" in found(
        FitRouters.Config(targets="errors"), settings(ridge)
    )
    assert "several" in found(fits, settings(ridge, domains=("a",)))
    assert "take this policy out" in found(fits, settings(ridge, acts=True))
    assert "own: fit to" in found(FitRouters.Config(targets="labels"), settings(ridge, tokens=True))
    assert "from_stage" in found(FitRouters.Config(from_stage=9), settings(ridge))
    dense = lane(sections={"model": Classifier.Config(head=MLP.Config())})
    assert "no experts under a router" in found(fits, dense)
    with pytest.raises(ValueError, match="from_stage"):
        FitRouters.Config(from_stage=-1)
