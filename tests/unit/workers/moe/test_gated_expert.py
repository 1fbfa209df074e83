"""Gated experts in a layer: output, gradients, budget, masks, growth and narrowing."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from ops.expert_mlp import ACTIVATIONS
from workers.contract import InputError
from workers.edits import Cause, Grow
from workers.models.classifier import Classifier
from workers.models.heads import MoEHead
from workers.moe.dispatch import Limits, dispatch
from workers.moe.experts import GatedExpert
from workers.moe.experts.base import Kernel, Loop, kernel_of
from workers.moe.experts.mixture import PackedGated
from workers.moe.growth import surgery
from workers.moe.growth.budget import Size, shared_width
from workers.moe.layers import MoELayer
from workers.moe.routed import observing
from workers.moe.selection import Selection
from workers.moe.selectors import Dense, TopK


def _x(*size: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def _experts(widths=(5, 2, 7, 5), activation: str = "silu") -> list[GatedExpert]:
    torch.manual_seed(0)
    config = GatedExpert.Config(activation=activation)
    return [GatedExpert(config, 6, 9, width) for width in widths]


def _selection(tokens: int, experts: int, dense: bool) -> tuple[Selection, torch.Tensor]:
    weights_TE = torch.softmax(_x(tokens, experts, seed=5), -1)
    chosen_TE = torch.ones_like(weights_TE, dtype=torch.bool) if dense else weights_TE > 0.25
    weights_TE = (weights_TE * chosen_TE).requires_grad_()
    return Selection(chosen_TE, weights_TE, dense=dense), weights_TE


def _growing(**settings) -> Classifier:
    layer = MoELayer.Config(expert=GatedExpert.Config(**settings))
    head = MoEHead.Config(hidden=(24, 16), layer=layer)
    return Classifier(Classifier.Config(experts=1, max_experts=None, head=head), (1, 3, 4), 3, 2)


def _edit(experts: int, **more: str) -> Grow:
    cause = Cause(policy="test", trigger="test")
    where = {"id": "e1", "stage": "s1", "after_interval": 0, "revision": 1, "seed": 7}
    return Grow(**where, **more, experts=experts, cause=cause)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_the_formula_on_the_halves_of_gate_up(activation: str) -> None:
    expert, x = _experts(activation=activation)[0], _x(2, 3, 6)
    gate, value = expert.gate_up[:5], expert.gate_up[5:]
    hidden = ACTIVATIONS[activation][0](functional.linear(x, gate)) * functional.linear(x, value)
    torch.testing.assert_close(expert(x), functional.linear(hidden, expert.down))
    assert {name: tuple(p.shape) for name, p in expert.named_parameters()} == {
        "gate_up": (10, 6),
        "down": (9, 5),
    }


def test_parameters_are_drawn_as_linear_layers_draw() -> None:
    torch.manual_seed(1)
    expert = GatedExpert(GatedExpert.Config(), 64, 50, 100)
    for weight, inputs in ((expert.gate_up, 64), (expert.down, 100)):
        assert weight.abs().max() <= inputs**-0.5
        torch.testing.assert_close(
            float(weight.detach().std()), (3 * inputs) ** -0.5, rtol=0.05, atol=0
        )


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_kernel_equals_the_loop_over_experts(dense, masked, activation) -> None:
    experts, x = _experts(activation=activation), _x(20, 6).requires_grad_()
    selection, weights_TE = _selection(20, 4, dense)
    limits = Limits(trainable_TE=_x(20, 4, seed=8) > 0) if masked else Limits()
    leaves = [x, weights_TE, *(p for expert in experts for p in expert.parameters())]
    assert isinstance(kernel_of(experts), PackedGated)

    def run(kernel: Kernel) -> list[torch.Tensor]:
        y = dispatch(kernel, x, selection, limits)
        return [y, *torch.autograd.grad(y.square().sum(), leaves)]

    for ours, theirs in zip(run(kernel_of(experts)), run(Loop(experts)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_experts_of_several_activations_run_in_a_loop() -> None:
    assert isinstance(kernel_of([*_experts(), *_experts(activation="relu")]), Loop)


@pytest.mark.parametrize("selector", [Dense.Config(), TopK.Config(k=2)])
def test_a_layer_of_gated_experts(selector) -> None:
    config = MoELayer.Config(expert=GatedExpert.Config(width=4), selector=selector)
    layer = MoELayer(config, 6, 20, 3, None, seed=4)
    with observing(layer) as seen:
        y = layer(_x(11, 6))
    weights_TE = seen[""][0].weights
    mixed = sum(
        weights_TE[:, e : e + 1] * expert(_x(11, 6))
        for e, expert in enumerate(layer.experts.values())
    )
    torch.testing.assert_close(y, mixed)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 40))
def test_budget_of_three_matrices_is_kept_and_used_up(inputs, outputs, experts) -> None:
    def cost(width: int) -> int:
        return experts * width * (2 * inputs + outputs) + experts * inputs

    config, sizes = GatedExpert.Config(), [Size(inputs, outputs, experts)]
    if cost(1) > inputs * outputs:
        with pytest.raises(InputError, match="no hidden width fits"):
            GatedExpert.width_for(config, sizes)
        return
    width = GatedExpert.width_for(config, sizes)
    assert cost(width) <= inputs * outputs < cost(width + 1)


def test_width_is_the_configured_one_or_shared_by_the_layers() -> None:
    sizes = [Size(64, 64, 2), Size(64, 32, 2)]
    assert GatedExpert.width_for(GatedExpert.Config(width=11), sizes) == 11
    free = GatedExpert.width_for(GatedExpert.Config(), sizes)
    assert free == (64 * 62 + 64 * 30) // (2 * (192 + 160))
    assert free < shared_width(sizes)


def test_zero_output_leaves_the_hidden_units() -> None:
    expert = _experts()[0]
    before = expert.gate_up.detach().clone()
    expert.zero_output()
    assert not expert(_x(4, 6)).any()
    assert torch.equal(expert.gate_up, before)


def test_narrowing_to_the_same_width_is_exact() -> None:
    expert, x = _experts()[0], _x(200, 6)
    want = expert(x)
    kept = expert.narrow(5, x)
    assert {name: (dim, units.tolist()) for name, (dim, units) in kept.items()} == {
        "gate_up": (0, list(range(10))),
        "down": (1, list(range(5))),
    }
    assert (expert(x) - want).abs().max() < 1e-2 * want.abs().max()


def test_narrowing_keeps_what_matters_and_both_of_its_rows() -> None:
    expert, x = _experts()[0], _x(200, 6)
    with torch.no_grad():
        expert.down[:, [0, 2]] *= 1e-4  # units 1, 3 and 4 make up the answer
    want, old = expert(x), copy.deepcopy(expert)
    kept = expert.narrow(3, x)
    assert kept["down"][1].tolist() == [1, 3, 4]
    assert kept["gate_up"][1].tolist() == [1, 3, 4, 6, 8, 9]
    assert torch.equal(expert.gate_up, old.gate_up[[1, 3, 4, 6, 8, 9]])
    assert expert.width == 3
    assert (expert(x) - want).abs().max() < 1e-2 * want.abs().max()


@pytest.mark.parametrize("initialiser", ["clone_split", "clone_noise", "zero_out", "random"])
def test_growth_by_every_way_of_starting(initialiser: str) -> None:
    model, x = _growing(width=4), _x(32, 1, 3, 4)
    report = surgery.apply(model, None, _edit(3, initialiser=initialiser), x)
    assert {layer.experts for layer in report.after.layers.values()} == {3}
    if initialiser == "clone_split":
        assert report.probe_change < 1e-5
    if initialiser == "zero_out":
        assert not model.head.layers[0].expert(1).down.any()


def test_rescale_narrows_parameters_and_optimiser_state() -> None:
    model, x = _growing(), _x(256, 1, 3, 4)
    optimizer = torch.optim.AdamW(list(model.named_parameters()), lr=1e-2)
    model(x).square().mean().backward()
    optimizer.step()
    edit = _edit(2, reading="rescale", initialiser="clone_split")
    report = surgery.apply(model, optimizer, edit, x)
    for name, layer in report.after.layers.items():
        was = report.before.layers[name]
        assert layer.widths == (layer.widths[0],) * 2
        assert layer.widths[0] < was.widths[0]
    expert = model.head.layers[0].expert(0)
    for parameter in expert.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    restored = _growing()
    surgery.ensure_arch(restored, surgery.arch(model))
    restored.load_state_dict(model.state_dict())
    torch.testing.assert_close(restored(x), model(x))
