"""Old experts frozen: bit for bit through training, phases, restarts; new ones learn."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from orchestrator.config.plan import plan
from orchestrator.policies.freeze_old import FreezeOldExperts
from tests.fakes import tiny
from tests.views import policy, view
from workers.contract import InputError
from workers.edits import AdaptRouter, Cause, FreezeOld, Grow, SetPhase
from workers.models import HEADS
from workers.models.classifier import Classifier
from workers.moe import EXPERTS, LAYERS, ROUTERS, SELECTORS
from workers.moe.experts import Bottleneck
from workers.moe.growth import surgery
from workers.moe.routed import StepContext, routed_layers
from workers.moe.stepping import drop_gradients, stepping

BOTTLENECK = Bottleneck.Config(width=4)


def _common(revision: int = 1) -> dict[str, Any]:
    return {
        "id": f"e{revision}",
        "stage": f"s{revision}",
        "after_interval": 0,
        "revision": revision,
        "seed": 3,
        "cause": Cause(policy="test", trigger="test"),
    }


def _model(router: str = "linear", selector: str = "topk", expert: Any = BOTTLENECK) -> Classifier:
    layer = LAYERS["moe"].Config(
        router=ROUTERS[router].Config(),
        selector=SELECTORS[selector].Config(),
        expert=expert,
    )
    head = HEADS["moe"].Config(hidden=(24,), layer=layer)
    return Classifier(Classifier.Config(experts=2, max_experts=4, head=head), (1, 8, 8), 24, 0)


def _optimizer(model: Classifier) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.named_parameters(), lr=0.01, weight_decay=0.1)


def _train(model: Classifier, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    for step in range(steps):
        x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        with stepping(model, StepContext()):
            model(x).square().mean().backward()
        drop_gradients(routed_layers(model))
        optimizer.step()


def _belongs(name: str, expert: int) -> bool:
    parts = "experts|rows|biases|second_rows|second_biases|thresholds"
    return re.search(rf"\.({parts})\.{expert}(\.|$)", name) is not None


def _apply(model: Classifier, optimizer: torch.optim.Optimizer, *edits: Any) -> None:
    for edit in edits:
        surgery.apply(model, optimizer, edit, torch.randn(4, 1, 8, 8))


@pytest.mark.parametrize(("router", "selector"), [("linear", "topk"), ("cosine", "top_any")])
def test_old_experts_keep_their_bits_and_new_ones_learn(router: str, selector: str) -> None:
    model = _model(router, selector)
    optimizer = _optimizer(model)
    _train(model, optimizer)
    _apply(model, optimizer, Grow(**_common(1), experts=3), FreezeOld(**_common(2)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _train(model, optimizer)
    after = dict(model.named_parameters())
    old = [name for name in before if _belongs(name, 0) or _belongs(name, 1)]
    new = [name for name in before if _belongs(name, 2)]
    assert len(old) == 2 * len(new) > 0
    assert all(torch.equal(before[name], after[name]) for name in old)
    moved = [name for name in new if not torch.equal(before[name], after[name])]
    assert any(".rows." in name for name in moved)
    assert any(".experts." in name for name in moved)
    _apply(model, optimizer, Grow(**_common(3), experts=4), FreezeOld(**_common(4)))
    assert {tuple(sorted(layer.frozen)) for layer in routed_layers(model).values()} == {(0, 1, 2)}


def test_it_outlives_phases_and_restarts() -> None:
    model = _model("cosine")
    optimizer = _optimizer(model)
    _apply(model, optimizer, Grow(**_common(1), experts=3), FreezeOld(**_common(2)))
    phase = SetPhase(**_common(3), phase="all", trains=("router", "experts", "backbone"))
    _apply(model, optimizer, phase)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.named_parameters() if _belongs(n, 0) or _belongs(n, 1)}
    other = _model("cosine")
    surgery.ensure_arch(other, surgery.arch(model))
    other.load_state_dict(model.state_dict())
    assert surgery.fingerprint(other) == surgery.fingerprint(model)
    surgery.ensure_arch(other, surgery.arch(_model("cosine")))
    assert all(p.requires_grad for p in other.parameters()), "an earlier model learns again"


def test_an_adaptive_router_freezes_its_second_rows_too() -> None:
    model = _model("adaptive")
    optimizer = _optimizer(model)
    _apply(model, optimizer, AdaptRouter(**_common(1)), Grow(**_common(2), experts=3))
    _apply(model, optimizer, FreezeOld(**_common(3)))
    router = routed_layers(model)["head.layers.0"].router
    learns = {name for name, row in router.second_rows.items() if row.requires_grad}
    assert learns == {"2"}


def test_nothing_to_freeze_is_refused() -> None:
    model = _model()
    with pytest.raises(InputError, match="no routed layer has grown"):
        _apply(model, _optimizer(model), FreezeOld(**_common()))


def test_the_policy_follows_each_growth() -> None:
    made = policy(FreezeOldExperts.Config())
    assert made.propose(view(n=0), None) == ((), None)
    seen = view(n=0)
    grown = seen.after(Grow(**seen.edit(policy="growth", trigger="stages"), experts=5))
    ((edit,), _) = made.propose(grown, None)
    assert isinstance(edit, FreezeOld)
    assert edit.revision == grown.model.revision + 1


def test_what_does_not_fit_is_refused_when_planned() -> None:
    growth, freeze = {"kind": "periodic"}, {"kind": "freeze_old"}
    head = {"kind": "moe", "layer": {"kind": "moe", "router": "linear"}}
    model = {"experts": 1, "head": head}
    plan(tiny(model=model, policies={"growth": growth, "freeze": freeze}))
    with pytest.raises(InputError, match="nothing grows before it"):
        plan(tiny(model=model, policies={"freeze": freeze, "growth": growth}))
    with pytest.raises(InputError, match="no experts under a router"):
        plan(tiny(model={"head": "mlp"}, policies={"growth": growth, "freeze": freeze}))
    head["layer"]["router"] = "tests.doors.test_router_door:DomainRouter"
    with pytest.raises(InputError, match="no parameters of one expert"):
        plan(tiny(model=model, policies={"growth": growth, "freeze": freeze}))


def test_old_experts_answer_the_same_bits_through_what_they_share() -> None:
    """The latent that all experts of a form read stops with the first that are frozen."""
    model = _model(expert=EXPERTS["shared_latent"].Config(rank=3, width=4))
    optimizer = _optimizer(model)
    _train(model, optimizer)
    _apply(model, optimizer, Grow(**_common(1), experts=3), FreezeOld(**_common(2)))
    ((_, layer),) = routed_layers(model).items()
    x = torch.randn(5, layer.inputs)
    before = [layer.expert(number)(x).detach() for number in range(3)]
    _train(model, optimizer)
    after = [layer.expert(number)(x).detach() for number in range(3)]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])
    arch, fresh = surgery.arch(model), _model(expert=layer.config.expert)
    surgery.ensure_arch(fresh, arch)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, p in fresh.named_parameters() if not p.requires_grad}
    surgery.ensure_arch(fresh, surgery.arch(_model(expert=layer.config.expert)))
    assert all(p.requires_grad for p in fresh.parameters())
