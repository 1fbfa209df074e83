"""Experts that run for every token: their own forms and gates, the budget, masks, restoring."""

from __future__ import annotations

import pytest
import torch

from tests.unit.workers.moe.experts.life import check_bfloat16, check_growth, layer_of, x_TD
from workers.contract import InputError
from workers.moe.domains.masks import Mask
from workers.moe.domains.specialise import roles_of
from workers.moe.experts import Bottleneck, LinearExpert, MLPExpert, SharedLatentExpert
from workers.moe.growth.growable import count_parameters
from workers.moe.layers import MoELayer
from workers.moe.routed import StepContext, observing
from workers.moe.selectors import TopK
from workers.moe.stepping import stepping

NARROW = Bottleneck.Config(width=4)


def _mixed(layer: MoELayer) -> tuple[torch.Tensor, torch.Tensor]:
    """(the layer's answer, that of its routed experts alone)."""
    with observing(layer) as seen:
        y = layer(x_TD())
    weights = seen[""][0].weights
    mixed = [weights[:, e : e + 1] * layer.expert(e)(x_TD()) for e in range(layer.live)]
    return y, sum(mixed[1:], mixed[0])


def test_forms_of_their_own_by_turns_with_weight_one() -> None:
    forms = (LinearExpert.Config(), MLPExpert.Config(hidden=(3,)))
    layer = layer_of(NARROW, shared=3, shared_experts=forms)
    assert [type(e) for e in layer.shared] == [LinearExpert, MLPExpert, LinearExpert]
    y, mixed = _mixed(layer)
    torch.testing.assert_close(y, mixed + sum(expert(x_TD()) for expert in layer.shared))


def test_a_sigmoid_gate_weighs_each() -> None:
    layer = layer_of(NARROW, shared=2, shared_gate="sigmoid")
    y, mixed = _mixed(layer)
    gates = torch.sigmoid(x_TD() @ layer.shared.gates_KD.t())
    gated = sum(gates[:, i : i + 1] * layer.shared[i](x_TD()) for i in range(2))
    torch.testing.assert_close(y, mixed + gated)
    y.square().sum().backward()
    assert layer.shared.gates_KD.grad.abs().min() > 0
    check_bfloat16(NARROW, shared=2, shared_gate="sigmoid")


def test_no_mask_keeps_a_domains_tokens_from_them() -> None:
    """The masked domain teaches the shared experts and only its own routed one."""
    layer = layer_of(NARROW, selector=TopK.Config(k=2), shared=1, shared_gate="sigmoid")
    domains = ("a", "b")
    layer.masking.set(Mask(version=1, domains=domains, rows=((True, False), (True, False))))
    with stepping({"": layer}, StepContext(0.5, domains, torch.zeros(20, dtype=torch.int64))):
        layer(x_TD()).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.shared.parameters())
    assert all(p.grad.abs().max() > 0 for p in layer.expert(0).parameters())
    assert all(p.grad is None or not p.grad.any() for p in layer.expert(1).parameters())


def test_a_phase_of_experts_trains_shared_ones_and_what_experts_have_in_common() -> None:
    layer = layer_of(SharedLatentExpert.Config(rank=3), shared=1, shared_gate="sigmoid")
    experts = {id(p) for p in roles_of(layer)["experts"]}
    routers = {id(p) for p in layer.router.parameters()}
    assert experts == {id(p) for p in layer.parameters()} - routers


def _weights(layer: MoELayer) -> int:
    """Weights in all with every planned expert live, biases left out."""
    per_expert = sum(p.numel() for p in layer.expert(0).parameters() if p.dim() > 1)
    rest = sum(p.numel() for p in layer.shared.parameters() if p.dim() > 1)
    return 4 * (per_expert + layer.inputs) + rest


@pytest.mark.parametrize(
    ("form", "gate"),
    [(MLPExpert.Config(hidden=(2,)), "one"), (MLPExpert.Config(hidden=(2,)), "sigmoid"),
     (Bottleneck.Config(), "one"), (Bottleneck.Config(), "sigmoid")],
)  # fmt: skip
def test_the_budget_pays_for_shared_forms(form, gate: str) -> None:
    """Routed experts are as wide as the dense map allows once the shared ones are paid for."""
    layer = layer_of(Bottleneck.Config(), 1, shared=1, shared_experts=(form,), shared_gate=gate)
    weights, unit = _weights(layer), 4 * (layer.inputs + layer.outputs)
    assert weights <= 24 * 24 < weights + unit


def test_shared_ones_of_the_routed_form_have_its_width_as_before() -> None:
    layer = layer_of(Bottleneck.Config(), shared=1)
    assert layer.shared[0].width == layer.expert(0).width == 24 * (24 - 5) // (48 * 5)


def test_restoring_and_refused_settings() -> None:
    own = (LinearExpert.Config(),)
    check_growth(NARROW, shared=2, shared_experts=own, shared_gate="sigmoid")
    check_growth(NARROW, shared=1, shared_experts=(SharedLatentExpert.Config(rank=2, width=3),))
    with pytest.raises(InputError, match="shared experts"):
        layer_of(NARROW, shared=1).ensure_arch(
            layer_of(NARROW, shared=1, shared_experts=own).arch()
        )
    for settings in ({"shared_experts": own}, {"shared_gate": "sigmoid"}):
        with pytest.raises(ValueError, match="shared must be at least 1"):
            MoELayer.Config(**settings)


# ---------------------------------------------------------------- fine-grained and shared


def test_fine_grained_experts_cost_what_the_coarse_ones_do() -> None:
    """E = 4 experts, top 2, cut into m = 4 each: 16 of a quarter of the width, 8 active, of which
    2 are shared: as many weights in experts and as many active as before the cut."""
    m, width, shared = 4, 8, 2
    coarse = layer_of(Bottleneck.Config(width=width), 4, selector=TopK.Config(k=2))
    fine = layer_of(
        Bottleneck.Config(width=width // m), m * 4 - shared, most=None,
        selector=TopK.Config(k=m * 2 - shared), shared=shared,
    )  # fmt: skip

    def matrices(experts) -> int:
        return sum(p.numel() for expert in experts for p in expert.parameters() if p.dim() > 1)

    def active(layer: MoELayer) -> int:
        """Weights of experts that one token passes."""
        idle = count_parameters(layer) - layer.active_parameters()
        biases = sum(p.numel() for p in layer.expert(0).parameters() if p.dim() == 1)
        per_expert = matrices([layer.expert(0)])
        return matrices([*layer.experts.values(), *layer.shared]) - idle * per_expert // (
            per_expert + biases
        )

    assert matrices([*fine.experts.values(), *fine.shared]) == matrices(coarse.experts.values())
    assert active(fine) == active(coarse) == 2 * 2 * width * 24
    y, mixed = _mixed(fine)
    torch.testing.assert_close(y, mixed + fine.shared[0](x_TD()) + fine.shared[1](x_TD()))
