"""One mixture-of-experts layer: budget, output, gradients, usage."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.contract import InputError
from workers.models.classifier import Classifier
from workers.models.estimate import estimate, estimate_of
from workers.models.heads import MLP, MoEHead
from workers.moe.experts import Bottleneck, LinearExpert
from workers.moe.growth.budget import Size, shared_width
from workers.moe.growth.growable import shape
from workers.moe.layers import MoELayer
from workers.moe.losses import Balance
from workers.moe.routers import RouterContext
from workers.moe.selectors import Dense, TopK
from workers.moe.stepping import take_losses
from workers.moe.tallies import take_gate_weights

LINEAR = LinearExpert.Config()


def _layer(experts: int = 3, inputs: int = 6, outputs: int = 20, **settings) -> MoELayer:
    return MoELayer(MoELayer.Config(**settings), inputs, outputs, experts, None, seed=4)


def _x(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(3))


def _logits(layer: MoELayer, x: torch.Tensor) -> torch.Tensor:
    return layer.router(x, RouterContext())


def _naive(layer: MoELayer, x: torch.Tensor, k: int | None = None) -> torch.Tensor:
    logits = torch.stack(
        [x @ layer.router.rows[n] + layer.router.biases[n] for n in layer.experts], -1
    )
    if k is not None:
        worst = logits.argsort(-1, descending=True)[..., k:]
        logits = logits.scatter(-1, worst, float("-inf"))
    gates = torch.softmax(logits, -1)
    y = 0
    for e, expert in enumerate(layer.experts.values()):
        hidden = expert.up(x)
        answer = expert.down(torch.relu(hidden)) if hasattr(expert, "down") else hidden
        y = y + gates[..., e : e + 1] * answer
    return y


@pytest.mark.parametrize(
    ("final", "widths", "total"),
    [(10, [84, 50, 15], 6_518_640), (20, [41, 25, 7], 6_477_040), (40, [20, 12, 3], 6_477_040)],
)
def test_widths_and_sizes_of_the_tiny_imagenet_head(final, widths, total) -> None:
    sizes = [(5184, 1024), (1024, 1024), (1024, 200)]
    assert [shared_width([Size(a, b, final)]) for a, b in sizes] == widths
    config = MoEHead.Config(hidden=(1024, 1024), dense_last=False)
    found = estimate_of(lambda: MoEHead(config, 5184, 200, final // 10, final), final)
    assert found.parameters == total
    assert [layer.widths for layer in found.layers.values()] == [(w,) * final for w in widths]
    dense = estimate_of(lambda: MLP(MLP.Config(hidden=(1024, 1024)), 5184, 200), 1)
    assert dense.parameters == 6_564_040


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 40))
def test_budget_is_kept_and_used_up(inputs: int, outputs: int, experts: int) -> None:
    def cost(width: int) -> int:
        return experts * width * (inputs + outputs) + experts * inputs

    try:
        width = shared_width([Size(inputs, outputs, experts)])
    except InputError:
        assert cost(1) > inputs * outputs
    else:
        assert cost(width) <= inputs * outputs < cost(width + 1)


@pytest.mark.parametrize("experts", [10, 20])
def test_width_trap_names_the_cure(experts: int) -> None:
    with pytest.raises(InputError, match=f"{experts} experts.*10 outputs.*dense_last"):
        shared_width([Size(256, 10, experts)])


def test_match_active_sizes_the_experts_one_token_passes() -> None:
    wide = _layer(10, 64, 64, match_active=True, selector=TopK.Config(k=2))
    assert wide.layer_shape().widths == (shared_width([Size(64, 64, 2)]),) * 10
    limited = _layer(10, 64, 64, match_active=True, selector=Dense.Config(output_max_k=3))
    assert limited.layer_shape().widths == (shared_width([Size(64, 64, 3)]),) * 10
    assert shape(wide).active < shape(wide).parameters
    assert shape(_layer(2)).active == shape(_layer(2)).parameters


@pytest.mark.parametrize(
    "settings", [{}, {"expert": LINEAR}, {"expert": Bottleneck.Config(width=3)}]
)
@pytest.mark.parametrize("selector", [Dense.Config(), TopK.Config(k=99)])
def test_output_and_gradients_equal_the_plain_formula(settings, selector) -> None:
    layer = _layer(selector=selector, **settings)
    x = _x(2, 5, 6).requires_grad_()
    leaves = [x, *layer.parameters()]
    torch.testing.assert_close(layer(x), _naive(layer, x))
    ours = torch.autograd.grad(layer(x).square().sum(), leaves)
    theirs = torch.autograd.grad(_naive(layer, x).square().sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_ragged_widths_equal_the_plain_formula() -> None:
    layer = _layer(3)
    arch = layer.arch()
    for record, width in zip(arch["experts"], (2, 5, 1), strict=True):
        record["width"] = width
    layer.ensure_arch(arch)
    assert layer.layer_shape().widths == (2, 5, 1)
    torch.testing.assert_close(layer(_x(7, 6)), _naive(layer, _x(7, 6)))


@pytest.mark.parametrize("selector", [Dense.Config(output_max_k=2), TopK.Config(k=2)])
def test_top_k_forward(selector) -> None:
    layer = _layer(4, 6, 30, selector=selector)
    torch.testing.assert_close(layer(_x(9, 6)), _naive(layer, _x(9, 6), k=2))


def test_a_limited_output_is_that_of_the_largest_of_the_allowed_experts() -> None:
    layer, x = _layer(4, 6, 30, selector=Dense.Config(output_max_k=2)), _x(9, 6)
    order = _logits(layer, x).argsort(-1, descending=True)
    allowed = torch.ones(9, 4, dtype=torch.bool).scatter(1, order[:, :1], False)
    next_two = torch.zeros(9, 4, dtype=torch.bool).scatter(1, order[:, 1:3], True)
    torch.testing.assert_close(layer(x, allowed), layer(x, next_two))


@pytest.mark.parametrize("selector", [Dense.Config(), TopK.Config(k=3)])
def test_grad_max_k_keeps_the_output_and_teaches_only_k(selector) -> None:
    full, limited = _layer(3, selector=selector), _layer(3, selector=selector, grad_max_k=1)
    x = _x(1, 6)
    torch.testing.assert_close(limited(x), full(x))
    limited(x).square().sum().backward()
    best = str(int(_logits(limited, x).argmax()))
    for name, expert in limited.experts.items():
        moved = bool(expert.down.bias.grad.any())
        assert moved == (name == best)
    full(x).square().sum().backward()
    for name in limited.experts:
        torch.testing.assert_close(
            limited.router.rows[name].grad, full.router.rows[name].grad, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("selector", [Dense.Config(), TopK.Config(k=2)])
def test_allowed_limits_the_choice(selector) -> None:
    layer = _layer(3, selector=selector)
    allowed = torch.tensor([[True, False, False]]).expand(5, 3)
    want = layer.expert(0)
    y = layer(_x(5, 6), allowed)
    torch.testing.assert_close(y, want.down(torch.relu(want.up(_x(5, 6)))))


def test_usage_is_the_mean_gate_of_training_forwards() -> None:
    layer = torch.nn.Sequential(_layer(3))
    x = _x(8, 6)
    with torch.no_grad():
        layer(x)
    layer.eval()
    layer(x)
    assert take_gate_weights(layer) == {}
    layer.train()
    layer(x)
    layer(-x)
    gates = torch.softmax(_logits(layer[0], torch.cat([x, -x])), -1).mean(0)
    assert take_gate_weights(layer)["0"] == pytest.approx(gates.tolist(), abs=1e-6)
    assert take_gate_weights(layer) == {}


def test_nothing_is_counted_under_inference_mode_and_training_goes_on() -> None:
    layer = _layer(3)
    with torch.inference_mode():
        y = layer(_x(8, 6))
    assert y.shape == (8, 20)
    assert take_gate_weights(layer) == {}
    layer(_x(8, 6)).sum().backward()
    assert sum(take_gate_weights(layer)[""]) == pytest.approx(1)


def test_top_k_gate_weights_are_of_the_chosen_only() -> None:
    layer = _layer(4, 6, 30, selector=TopK.Config(k=1, weights="full"))
    layer(_x(50, 6))
    gates = torch.softmax(_logits(layer, _x(50, 6)), -1)
    top = torch.zeros(50, 4).scatter(1, gates.argmax(-1, keepdim=True), 1.0)
    assert take_gate_weights(layer)[""] == pytest.approx((gates * top).mean(0).tolist())


def test_noise_moves_only_training() -> None:
    layer = _layer(3, selector=TopK.Config(k=1, weights="full", noise=5.0))
    assert not torch.equal(layer(_x(20, 6)), layer(_x(20, 6)))
    layer.eval()
    assert torch.equal(layer(_x(20, 6)), layer(_x(20, 6)))


def test_balance_loss_is_weighted_and_taken_once() -> None:
    layer = _layer(2, losses=(Balance.Config(weight=0.5),))
    with torch.no_grad():
        for name, bias in layer.router.biases.items():
            layer.router.rows[name].zero_()
            bias.fill_(5.0 if name == "0" else -5.0)
    layer(_x(10, 6))
    share = torch.softmax(torch.tensor([5.0, -5.0]), 0)[0]
    (name, loss), *_ = take_losses({"head": layer}).items()
    assert name == "loss/balance/head"
    torch.testing.assert_close(loss, 0.5 * 2 * share)
    loss.backward()
    assert layer.router.biases["0"].grad is not None
    assert take_losses({"head": layer}) == {}
    layer.eval()
    layer(_x(10, 6))
    assert take_losses({"head": layer}) == {}
    assert isinstance(copy.deepcopy(layer), MoELayer)


def test_estimate_equals_the_built_model() -> None:
    config = Classifier.Config(experts=2, max_experts=6)
    model = Classifier(config, (1, 5, 5), 4, 0)
    assert estimate(config, (1, 5, 5), 4, 2) == shape(model)
    assert estimate(config, (1, 5, 5), 4, 6).layers["head.layers.0"].experts == 6


def test_empty_batch() -> None:
    for selector in (Dense.Config(), TopK.Config()):
        assert _layer(3, selector=selector)(_x(0, 6)).shape == (0, 20)
