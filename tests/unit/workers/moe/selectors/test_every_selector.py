"""What every selector of the table keeps to: exact counts, allowed experts, growth, half types."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.config.checks import settings_of
from tests.fakes import tiny
from workers.moe.experts import EXPERTS
from workers.moe.growth.growable import Growth, cast
from workers.moe.growth.initialisers import INITIALISERS
from workers.moe.layers import MoELayer
from workers.moe.routed import Routed, StepContext, observing
from workers.moe.selectors import SELECTORS
from workers.moe.stepping import stepping, take_losses
from workers.moe.tallies import take_counts
from workers.rl.settings import PPOTraining

DOMAINS = ("one", "other")
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENS = 32


def _layer(kind: str, experts: int = 4) -> MoELayer:
    config = MoELayer.Config(
        selector=SELECTORS[kind].Config(), expert=EXPERTS["bottleneck"].Config(width=5)
    )
    return MoELayer(config, 6, 60, experts, 8, seed=4)


def _x(dtype: torch.dtype = torch.float32) -> Tensor:
    x_TD = torch.randn(TOKENS, 6, generator=torch.Generator().manual_seed(3))
    return x_TD.to(dtype)


def _grow(layer: MoELayer, experts: int, initialiser: str) -> None:
    made = INITIALISERS[initialiser](INITIALISERS[initialiser].Config())
    layer.grow(Growth(experts=experts, initialiser=made, seed=5, stage="later"))


def _step(layer: MoELayer, x_TD: Tensor, allowed_TE: Tensor | None = None) -> Routed:
    """One training step without an optimizer; what its pass was."""
    layer.train().zero_grad(set_to_none=True)
    domain_B = torch.arange(TOKENS) % 2
    with stepping(layer, StepContext(0.5, DOMAINS, domain_B)), observing(layer) as seen:
        loss = layer(x_TD, allowed_TE).float().square().mean()
        (loss + sum(take_losses({"": layer}).values())).backward()
    (routed,) = seen[""]
    return routed


def _check(routed: Routed, allowed_TE: Tensor | None) -> None:
    assert routed.weights.dtype == torch.float32
    assert bool(torch.isfinite(routed.weights).all())
    assert not bool((routed.weights != 0).logical_and(~routed.chosen).any())
    if allowed_TE is not None:
        assert not bool((routed.chosen & ~allowed_TE).any())


def _allowed(experts: int) -> Tensor:
    """Every token may choose some experts and is refused others."""
    places = torch.arange(TOKENS)[:, None] + torch.arange(experts)
    return places % 3 > 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", SELECTORS)
def test_counts_are_those_of_the_chosen(kind: str, dtype: str, masked: bool) -> None:
    layer = _layer(kind)
    cast(layer, TYPES[dtype])
    x_TD = _x(TYPES[dtype])
    for experts, initialiser in [(4, "random"), (5, "random"), (6, "clone_split")]:
        _grow(layer, experts, initialiser)
        allowed_TE = _allowed(experts) if masked else None
        take_counts(layer)
        routed = _step(layer, x_TD, allowed_TE)
        _check(routed, allowed_TE)
        counts, tokens = take_counts(layer)
        assert tokens == {"one": TOKENS // 2, "other": TOKENS // 2}
        for place, domain in enumerate(DOMAINS):
            of_domain = routed.chosen[torch.arange(TOKENS) % 2 == place]
            assert counts[""][domain] == of_domain.sum(0).tolist()
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        with torch.no_grad(), observing(layer.eval()) as seen:
            layer(x_TD, allowed_TE)
        (evaluated,) = seen[""]
        _check(evaluated, allowed_TE)
        assert take_counts(layer) == ({}, {}), "only training steps are counted"


@pytest.mark.parametrize("kind", SELECTORS)
def test_slots_and_table_say_the_same(kind: str) -> None:
    layer = _layer(kind, experts=6)
    logits_TE = torch.randn(TOKENS, 6, generator=torch.Generator().manual_seed(8))
    for training in (True, False):
        torch.manual_seed(1)
        selection = layer.selector(_x(), logits_TE, _allowed(6), training)
        slots = selection.as_slots()
        assert torch.equal(slots.chosen(6), selection.chosen_TE)
        ranked_TK = slots.weights_TK.detach().masked_fill(slots.selected_TK < 0, -1.0)
        assert bool((ranked_TK.diff(dim=1) <= 1e-6).all()), "best first, unused slots last"
        assert torch.equal(slots.counts_E, selection.chosen_TE.sum(0))
        dense_TE = torch.zeros(TOKENS, 7).scatter_add(
            1, slots.selected_TK.where(slots.selected_TK >= 0, 6), slots.weights_TK.detach()
        )
        torch.testing.assert_close(dense_TE[:, :6], selection.weights_TE.detach())


@pytest.mark.parametrize("kind", SELECTORS)
def test_restored_it_answers_the_same_bits(kind: str) -> None:
    layer, x_TD = _layer(kind), _x()
    for experts in (4, 6):
        _grow(layer, experts, "random")
        for _ in range(3):
            _step(layer, x_TD)
    restored = _layer(kind)
    restored.ensure_arch(layer.arch())
    restored.load_state_dict(layer.state_dict())
    with torch.no_grad():
        assert torch.equal(restored.eval()(x_TD), layer.eval()(x_TD))
    for one in (layer, restored):
        torch.manual_seed(7)
        _step(one, x_TD)
    saved = layer.state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in restored.state_dict().items())


@pytest.mark.parametrize("kind", SELECTORS)
def test_no_token_is_no_problem(kind: str) -> None:
    layer = _layer(kind)
    before = {name: value.clone() for name, value in layer.selector.state_dict().items()}
    layer.train()(_x()[:0]).sum().backward()
    after = layer.selector.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert layer.eval()(_x()[:0]).shape == (0, 60)


@pytest.mark.parametrize("kind", SELECTORS)
def test_the_router_learns(kind: str) -> None:
    layer = _layer(kind, experts=8)
    _step(layer, _x())
    learnt = [p.grad for p in layer.router.parameters() if p.grad is not None]
    assert learnt
    assert max(float(gradient.abs().max()) for gradient in learnt) > 0.0


@pytest.mark.parametrize("kind", SELECTORS)
def test_active_is_between_one_and_all(kind: str) -> None:
    selector = _layer(kind).selector
    for experts in (1, 2, 5, 8):
        assert 0.0 < selector.active(experts) <= experts


@pytest.mark.parametrize("kind", SELECTORS)
def test_what_each_learner_would_move_alone_is_refused(kind: str) -> None:
    """Exactly the selectors of which training without an optimizer moves a saved buffer."""
    layer, known = _layer(kind), dict(_layer(kind).selector.named_buffers())
    for _ in range(2):
        _step(layer, _x())
    moves = any(not torch.equal(x, known[name]) for name, x in layer.selector.named_buffers())
    config = SELECTORS[kind].Config()
    alone, two = (map(str, _refused(config, learners)) for learners in (1, 2))
    assert moves == any("several learners" in problem for problem in two)
    assert not any("several learners" in problem for problem in alone)


def test_a_given_ratio_is_measured_by_no_learner() -> None:
    assert not _refused(SELECTORS["ratio_skip"].Config(mu=0.3), learners=2)


def _refused(config: Any, learners: int) -> list[Any]:
    """Problems of a lane that does not act: what its own model does is refused for itself."""
    settings = settings_of(tiny().lanes[0])
    training = PPOTraining.Config(steps_per_stage=4096, intervals=1, num_learners=learners)
    lane = replace(settings, sections={**settings.sections, "training": training})
    assert not lane.acts
    return list(config.problems(lane)) if hasattr(config, "problems") else []
