"""Selection, dispatch, losses and records of one routed layer: exact, and over with the step."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from workers.contract import InputError, nested
from workers.moe.dispatch import Limits, dispatch, reached
from workers.moe.experts import Bottleneck, Expert, LinearExpert
from workers.moe.experts.base import Loop, kernel_of
from workers.moe.layers import MoELayer
from workers.moe.losses import Balance, ZLoss
from workers.moe.routed import Birth, StepContext, observing
from workers.moe.selection import Selection
from workers.moe.selectors import Dense, Selector, TopK
from workers.moe.stepping import drop_gradients, stepping, take_losses
from workers.moe.tallies import take_counts, take_gate_weights

SWITCH = TopK.Config(k=1, weights="full")


class AboveMean(Selector):
    """Experts whose logit is above the mean of all logits: any number of them, also none."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """No settings."""

        kind: str = "tests.unit.workers.moe.test_moe_routing:AboveMean"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.told: list[tuple[int, ...]] = []

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        self.told.append(tuple(births))

    def active(self, experts: int) -> float:
        return experts / 2

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        chosen_TE = logits_TE > logits_TE.mean() + 0.2
        return Selection(chosen_TE, self.probabilities(logits_TE, allowed_TE) * chosen_TE)


def _layer(experts: int = 4, **settings) -> MoELayer:
    return MoELayer(MoELayer.Config(**settings), 6, 60, experts, None, seed=4)


def _x(tokens: int = 24) -> Tensor:
    return torch.randn(tokens, 6, generator=torch.Generator().manual_seed(3))


def _step(layer: MoELayer, x: Tensor, context: StepContext | None = None) -> None:
    layer.zero_grad(set_to_none=True)
    with stepping({"": layer}, context or StepContext()):
        loss = layer(x).square().mean() + sum(take_losses({"": layer}).values())
        loss.backward()
        drop_gradients({"": layer})


def _taught(layer: MoELayer) -> list[bool]:
    return [
        any(p.grad is not None for p in expert.parameters()) for expert in layer.experts.values()
    ]


# ---------------------------------------------------------------- weights of one chosen expert


@pytest.mark.parametrize("selector", [SWITCH, Dense.Config(output_max_k=1, weights="full")])
def test_a_router_of_one_chosen_expert_learns_from_task_and_balance(selector) -> None:
    for losses in ((), (Balance.Config(weight=1.0, probabilities="selected"),)):
        layer = _layer(selector=selector, losses=losses)
        _step(layer, _x())
        assert all(row.grad.abs().max() > 0 for row in layer.router.rows.values())


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: TopK.Config(k=1), "k = 1"),
        (lambda: Dense.Config(output_max_k=1), "output_max_k = 1"),
    ],
)
def test_the_trap_of_one_expert_weighed_by_one_is_refused(build, name) -> None:
    with pytest.raises(ValueError, match=f"{name}.*never learns.*weights = 'full'"):
        build()


def test_full_weights_are_the_softmax_over_all_allowed_experts() -> None:
    for selector in (
        TopK.Config(k=2, weights="full"),
        Dense.Config(output_max_k=2, weights="full"),
    ):
        layer, allowed = _layer(selector=selector), torch.ones(24, 4, dtype=torch.bool)
        allowed[:, 0] = False
        with observing(layer) as seen:
            layer(_x(), allowed)
        (routed,) = seen[""]
        assert routed.chosen.sum(1).tolist() == [2] * 24
        assert not routed.chosen[:, 0].any()
        open_TE = routed.logits.masked_fill(~allowed, float("-inf"))
        all_TE = torch.softmax(open_TE, -1)
        torch.testing.assert_close(routed.probabilities, all_TE)
        torch.testing.assert_close(routed.weights, all_TE * routed.chosen)


# ---------------------------------------------------------------- losses


def test_the_balance_loss_takes_the_full_softmax_as_printed() -> None:
    """Switch, equation 4: P_e does not depend on the choice."""
    layer = _layer(selector=TopK.Config(k=2), losses=(Balance.Config(weight=1.0),))
    selected = Balance(Balance.Config(weight=1.0, probabilities="selected"))
    with observing(layer) as seen:
        layer(_x())
    (routed,) = seen[""]
    all_TE = torch.softmax(routed.logits, -1)
    share_E = torch.bincount(all_TE.argmax(-1), minlength=4) / 24
    (loss,) = take_losses({"": layer}).values()
    torch.testing.assert_close(loss.detach(), 4 * (share_E * all_TE.mean(0)).sum())
    assert abs(float(selected.loss(routed)) - float(loss)) > 1e-3


def test_losses_are_named_weighted_and_taken_once() -> None:
    layer = _layer(losses=(Balance.Config(weight=0.5), ZLoss.Config(weight=2.0)))
    with observing(layer) as seen:
        layer(_x())
    found = take_losses({"head": layer})
    assert list(found) == ["loss/balance/head", "loss/z/head"]
    z = torch.logsumexp(seen[""][0].logits, -1).square().mean()
    torch.testing.assert_close(found["loss/z/head"].detach(), 2.0 * z)
    assert take_losses({"head": layer}) == {}
    with torch.no_grad():
        layer(_x())
    assert take_losses({"head": layer}) == {}


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("selector", [TopK.Config(k=2), Dense.Config(output_max_k=2)])
def test_experts_that_no_token_chose_have_no_gradient_without_any_mask(selector) -> None:
    layer = _layer(5, selector=selector)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    x = _x(1)
    with observing(layer) as seen:
        layer(x)
    chosen = seen[""][0].chosen.any(0).tolist()
    assert sum(chosen) == 2
    before = {name: p.detach().clone() for name, p in layer.experts.named_parameters()}
    _step(layer, x)
    assert _taught(layer) == chosen
    optimizer.step()
    still = {n for n, p in layer.experts.named_parameters() if torch.equal(p, before[n])}
    assert {int(name[0]) for name in still} == {e for e in range(5) if not chosen[e]}


@pytest.mark.parametrize("selector", [TopK.Config(k=3), Dense.Config()])
def test_experts_that_grad_max_k_cuts_off_have_no_gradient(selector) -> None:
    layer = _layer(selector=selector, grad_max_k=1)
    _step(layer, _x(1))
    assert sum(_taught(layer)) == 1


def test_every_expert_learns_under_the_dense_selector_and_nothing_is_looked_up() -> None:
    layer = _layer()
    _step(layer, _x())
    assert all(_taught(layer))
    with stepping({"": layer}, StepContext()):
        layer(_x())
        assert layer.record.take_reached() == (True, None)


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize(
    "selector",
    [
        TopK.Config(k=2),
        Dense.Config(output_max_k=2),
        Dense.Config(),
        SWITCH,
        AboveMean.Config(),
    ],
)
def test_counts_are_those_of_the_chosen(selector) -> None:
    layer = torch.nn.Sequential(_layer(selector=selector))
    domain_B = torch.arange(24) % 3
    with stepping(layer, StepContext(0.0, ("a", "b", "c"), domain_B)), observing(layer) as seen:
        layer(_x())
    chosen_TE = seen["0"][0].chosen
    counts, tokens = take_counts(layer)
    wanted = {d: chosen_TE[domain_B == g].sum(0).tolist() for g, d in enumerate("abc")}
    assert counts == {"0": wanted}
    assert tokens == {"a": 8, "b": 8, "c": 8}
    weights = take_gate_weights(layer)["0"]
    assert weights == pytest.approx(seen["0"][0].weights.mean(0).tolist(), abs=1e-6)


def test_a_selector_says_before_it_is_built_whether_counts_tell_anything() -> None:
    assert Dense.Config().chooses_all
    assert not Dense.Config(output_max_k=2).chooses_all
    assert not TopK.Config().chooses_all


# ---------------------------------------------------------------- any number of experts


def test_variable_numbers_of_experts_equal_the_plain_formula_packed_and_in_a_loop() -> None:
    layer, x = _layer(selector=AboveMean.Config()), _x().requires_grad_()
    with observing(layer) as seen:
        y = layer(x)
    routed = seen[""][0]
    assert set(routed.chosen.sum(1).tolist()) > {0, 1, 2}
    outputs = torch.stack([expert(x) for expert in layer.experts.values()], 1)
    logits = layer.router.forward(x, None)
    weights = torch.softmax(logits, -1) * routed.chosen
    naive = (outputs * weights.unsqueeze(-1)).sum(1)
    torch.testing.assert_close(y, naive)
    leaves = [x, *layer.parameters()]
    ours = torch.autograd.grad(y.square().sum(), leaves, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(naive.square().sum(), leaves, retain_graph=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    selection = Selection(routed.chosen, weights.detach())
    for dense in (False, True):
        selection.dense = dense
        for kernel in (kernel_of(list(layer.experts.values())), Loop(list(layer.experts.values()))):
            found = dispatch(kernel, x, selection, Limits())
            torch.testing.assert_close(found, naive)
            limited = dispatch(kernel, x, selection, Limits(max_k=1))
            torch.testing.assert_close(limited, naive)
    assert layer.selector.told[-1] == (0, 1, 2, 3)


def test_nobody_chosen_gives_zero_and_teaches_nobody() -> None:
    layer = _layer(selector=AboveMean.Config())
    nothing = Selection(torch.zeros(5, 4, dtype=torch.bool), torch.zeros(5, 4))
    for kernel in (kernel_of(list(layer.experts.values())), Loop(list(layer.experts.values()))):
        y = dispatch(kernel, _x(5), nothing, Limits())
        assert y.shape == (5, 60)
        assert not y.any()
    assert not reached(nothing, Limits()).any()


def test_forms_of_experts_by_turns_and_shared_ones_beside() -> None:
    layer = _layer(
        3, expert=Bottleneck.Config(width=4), more_experts=(LinearExpert.Config(),), shared=1
    )
    assert [type(e) for e in layer.experts.values()] == [Bottleneck, LinearExpert, Bottleneck]
    assert isinstance(kernel_of(list(layer.experts.values())), Loop)
    with observing(layer) as seen:
        y = layer(_x())
    mixed = sum(
        seen[""][0].weights[:, e : e + 1] * expert(_x())
        for e, expert in enumerate(layer.experts.values())
    )
    torch.testing.assert_close(y, mixed + layer.shared[0](_x()))
    other = _layer(1, expert=Bottleneck.Config(width=4), more_experts=(LinearExpert.Config(),))
    with pytest.raises(InputError, match="shared experts"):
        other.ensure_arch(layer.arch())


def test_activations_of_the_kernel_are_those_of_the_expert() -> None:
    for activation in ("gelu", "silu"):
        for selector in (Dense.Config(), TopK.Config(k=2)):
            layer = _layer(expert=Bottleneck.Config(activation=activation), selector=selector)
            with observing(layer) as seen:
                y = layer(_x())
            weights = seen[""][0].weights
            mixed = sum(
                weights[:, e : e + 1] * expert(_x())
                for e, expert in enumerate(layer.experts.values())
            )
            torch.testing.assert_close(y, mixed)


def test_an_expert_that_is_no_expert_is_refused() -> None:
    @dataclass(frozen=True)
    class Foreign:
        kind: str = "torch.nn:Identity"

    with pytest.raises(InputError, match=r"torch.nn:Identity.*workers.moe.experts.Expert"):
        _layer(expert=Foreign())
    with pytest.raises(InputError, match="zero_out"):
        Expert(None, 1, 1, 1).zero_output()


# ---------------------------------------------------------------- what a step says ends with it


def test_a_training_forward_outside_a_step_knows_nothing_of_the_last_batch() -> None:
    layer = torch.nn.Sequential(_layer(selector=TopK.Config(k=2)))
    context = StepContext(0.5, ("a", "b"), torch.arange(4) % 2)
    with stepping(layer, context):
        layer(_x(4))
    take_counts(layer)
    layer(_x(7))  # not a multiple of the batch
    layer(_x(8))  # a multiple, which took the last batch's domains
    assert take_counts(layer) == ({}, {})
    with pytest.raises(RuntimeError, match="in the step"), stepping(layer, context):
        raise RuntimeError("in the step")
    layer(_x(8))
    assert take_counts(layer) == ({}, {})


def test_what_an_earlier_forward_reached_does_not_count_for_the_step() -> None:
    layer = _layer(5, selector=TopK.Config(k=2))
    layer(_x(64))  # a probe in training mode
    _step(layer, _x(1))
    assert sum(_taught(layer)) == 2


def _routed(config: object) -> list[MoELayer.Config]:
    return [part for _, part in nested(config) if isinstance(part, MoELayer.Config)]


def test_layers_of_experts_in_a_config_are_found() -> None:
    from workers.models import MODELS

    assert len(_routed(MODELS["classifier"].Config())) == 1
    actor_critic = MODELS["actor_critic"]
    assert len(_routed(actor_critic.Config())) == 1
    from workers.moe import LAYERS

    residual = LAYERS["residual"].Config(inner=LAYERS["chain"].Config())
    assert len(_routed(actor_critic.Config(layer=residual))) == 1
    assert not _routed(actor_critic.Config(layer=LAYERS["linear"].Config()))


def test_a_copy_of_a_layer_is_its_own_owner() -> None:
    layer = _layer(2, losses=(Balance.Config(),))
    with stepping({"": layer}, StepContext(0.5)):
        layer(_x())
    other = copy.deepcopy(layer)
    other.add(2, Birth())
    assert (layer.live, other.live) == (2, 3)
    assert pickle.loads(pickle.dumps(layer)).live == 2
