"""Each op against a naive statement of what it computes, its gradients, and torch's own checks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

import ops

GROWSTAGE = torch.ops.growstage


def _normal(*shape: int, seed: int = 0, grad: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(grad)


def _experts(widths: list[int], inputs: int, outputs: int, two: bool) -> list[list[torch.Tensor]]:
    widths = widths if two else [outputs] * len(widths)
    up = [_normal(h, inputs, seed=e) for e, h in enumerate(widths)]
    bias = [_normal(h, seed=50 + e) for e, h in enumerate(widths)]
    if not two:
        return [up, bias, [], []]
    down = [_normal(outputs, h, seed=100 + e) for e, h in enumerate(widths)]
    return [up, bias, down, [_normal(outputs, seed=150 + e) for e in range(len(widths))]]


def _one(x: torch.Tensor, e: int, weights: list[list[torch.Tensor]]) -> torch.Tensor:
    up, up_bias, down, down_bias = weights
    hidden = up[e] @ x + up_bias[e]
    return down[e] @ torch.relu(hidden) + down_bias[e] if down else hidden


def _routed(x, logits, weights, selector="topk", k=2, allowed=None):
    selected, gate, _ = ops.route(logits, selector=selector, k=k, allowed_TE=allowed)
    rows, position, offsets = ops.permute(x, selected, logits.shape[1])
    return ops.combine(ops.expert_mlp(rows, offsets, *weights), position, gate)


def _naive(x, logits, weights, k, allowed=None):
    outputs = (weights[2] or weights[0])[0].shape[0]
    y = []
    for t in range(len(x)):
        live = [e for e in range(logits.shape[1]) if allowed is None or allowed[t, e]]
        best = sorted(live, key=lambda e: (-float(logits[t, e].detach()), e))[:k]
        if not best:
            y.append(x[t, :1].sum() * 0 + torch.zeros(outputs, dtype=x.dtype))
            continue
        gate = torch.softmax(torch.stack([logits[t, e] for e in best]), 0)
        y.append(sum(g * _one(x[t], e, weights) for g, e in zip(gate, best, strict=True)))
    return torch.stack(y)


@pytest.mark.parametrize("two", [True, False])
@pytest.mark.parametrize("k", [1, 2, 9])
def test_routed_layer_and_its_gradients_equal_the_naive_loop(two: bool, k: int) -> None:
    x, logits = _normal(7, 3), _normal(7, 4)
    weights = _experts([2, 1, 4, 3], 3, 5, two)
    allowed = torch.rand(7, 4, generator=torch.Generator().manual_seed(1)) > 0.4
    allowed[0] = False
    leaves = [x, logits, *(w for group in weights for w in group)]
    got = _routed(x, logits, weights, k=k, allowed=allowed)
    want = _naive(x, logits, weights, k, allowed)
    torch.testing.assert_close(got, want)
    probe = _normal(7, 5, seed=9, grad=False)
    ours = torch.autograd.grad((got * probe).sum(), leaves)
    theirs = torch.autograd.grad((want * probe).sum(), leaves, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(0, 9),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    k=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_fuzz_routed_equals_naive(tokens, widths, inputs, outputs, k, seed) -> None:
    x, logits = _normal(tokens, inputs, seed=seed), _normal(tokens, len(widths), seed=seed + 1)
    weights = _experts(widths, inputs, outputs, True)
    allowed = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)) > 0.3
    got = _routed(x, logits, weights, k=k, allowed=allowed)
    assert got.shape == (tokens, outputs)
    if tokens:
        torch.testing.assert_close(got, _naive(x, logits, weights, k, allowed))


def test_gradcheck() -> None:
    x, logits = _normal(5, 3), _normal(5, 3)
    weights = _experts([2, 3, 1], 3, 2, True)
    flat = [w for group in weights for w in group]

    def run(x, logits, *flat):
        return _routed(x, logits, [list(flat[i : i + 3]) for i in range(0, 12, 3)])

    assert torch.autograd.gradcheck(run, (x, logits, *flat))
    assert torch.autograd.gradcheck(
        lambda z: ops.route(z, selector="dense", temperature=0.5)[1], (logits,)
    )


@pytest.mark.parametrize("tokens", [0, 6])
def test_opcheck(tokens: int) -> None:
    x, logits = _normal(tokens, 3), _normal(tokens, 4)
    allowed = torch.arange(tokens * 4).reshape(tokens, 4) % 3 > 0
    for selector in ("dense", "topk"):
        args = (
            logits,
            _normal(tokens, 4, seed=3, grad=False),
            allowed,
            None,
            ("dense", "topk").index(selector),
            2,
            0.5,
            1.0,
            0,
        )
        opcheck(GROWSTAGE.route.default, args)
    selected, gate, _ = ops.route(logits, selector="topk", k=2, allowed_TE=allowed)
    rows, position, offsets = ops.permute(x, selected, 4)
    opcheck(GROWSTAGE.permute.default, (x, selected, 4, selected.numel()))
    rows, gate = rows.detach().requires_grad_(), gate.detach().requires_grad_()
    opcheck(GROWSTAGE.combine.default, (rows, position, gate))
    for two in (True, False):
        weights = _experts([2, 3, 1, 2], 3, 5, two)
        opcheck(GROWSTAGE.expert_mlp.default, (rows, offsets, *weights, None, 0, False))
    domain = torch.arange(tokens) % 3
    opcheck(GROWSTAGE.usage.default, (selected, domain, 4, 3))


def test_counts_and_usage_equal_a_count_by_hand() -> None:
    allowed = torch.ones(40, 5, dtype=torch.bool)
    allowed[:, 3] = False
    domain = torch.arange(40) % 2
    selected, _, counts = ops.route(_normal(40, 5), selector="topk", k=2, allowed_TE=allowed)
    table = ops.usage(selected, domain, 5, 2)
    for e in range(5):
        for d in range(2):
            assert table[e, d] == (selected[domain == d] == e).sum()
    assert counts.tolist() == table.sum(1).tolist()
    assert counts[3] == 0
    assert counts.sum() == 80


def test_ties_go_to_the_lower_expert_and_rows_keep_token_order() -> None:
    selected, gate, _ = ops.route(torch.zeros(4, 3), selector="topk", k=2)
    assert selected.tolist() == [[0, 1]] * 4
    assert gate.tolist() == [[0.5, 0.5]] * 4
    rows, position, offsets = ops.permute(torch.arange(4.0).unsqueeze(1), selected, 3)
    assert rows.squeeze(1).tolist() == [0, 1, 2, 3] * 2
    assert offsets.tolist() == [0, 4, 8, 8]
    assert position.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_rows_only_as_many_as_slots_are_used() -> None:
    selected = torch.tensor([[2, -1, -1], [0, 2, -1]])
    x = torch.tensor([[1.0], [2.0]], requires_grad=True)
    rows, position, offsets = ops.permute(x, selected, 3, rows=3)
    assert rows.squeeze(1).tolist() == [2, 1, 2]
    assert position.tolist() == [[1, -1, -1], [0, 2, -1]]
    assert offsets.tolist() == [0, 1, 1, 3]
    (grad,) = torch.autograd.grad(rows, x, torch.tensor([[1.0], [10.0], [100.0]]))
    assert grad.squeeze(1).tolist() == [10, 101]


def test_noise_and_temperature_move_the_scores() -> None:
    logits, noise = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 3.0]])
    selected, gate, _ = ops.route(logits, selector="topk", k=2, temperature=0.5, noise_TE=noise)
    assert selected.tolist() == [[1, 0]]
    torch.testing.assert_close(gate, torch.softmax(torch.tensor([[8.0, 4.0]]), -1))


@pytest.mark.parametrize("selector", ["dense", "topk"])
def test_nan_token_stays_nan_and_harms_no_other(selector: str) -> None:
    x, logits = _normal(5, 3, grad=False), _normal(5, 4, grad=False)
    weights = _experts([2, 2, 2, 2], 3, 2, True)
    clean = _routed(x, logits, weights, selector)
    for poisoned in (x, logits):
        poisoned = poisoned.clone()
        poisoned[2, 0] = float("nan")
        args = (poisoned, logits) if poisoned.shape[1] == 3 else (x, poisoned)
        y = _routed(*args, weights, selector)
        assert y[2].isnan().all()
        rest = [0, 1, 3, 4]
        torch.testing.assert_close(y[rest], clean[rest])


def test_unused_rows_never_leak_even_when_they_hold_nan() -> None:
    rows = torch.tensor([[1.0], [float("nan")]])
    y = ops.combine(rows, torch.tensor([[0, -1]]), torch.tensor([[1.0, 0.0]]))
    assert y.tolist() == [[1.0]]


def test_non_contiguous_inputs() -> None:
    x, logits = _normal(3, 6).t(), _normal(4, 6).t()
    weights = _experts([2, 1, 4, 3], 3, 5, True)
    want = _routed(x.contiguous(), logits.contiguous(), weights)
    assert torch.equal(_routed(x, logits, weights), want)
    y = _routed(x, logits, weights)
    y.sum().backward()  # the incoming gradient is an expanded tensor


def test_frozen_experts_get_no_gradient_and_change_no_other() -> None:
    x, logits = _normal(8, 3), _normal(8, 3)
    weights = _experts([2, 2, 2], 3, 2, True)
    _routed(x, logits, weights).square().sum().backward()
    want = weights[0][0].grad.clone()
    for group in weights:
        group[0].grad = None
        group[1].requires_grad_(False).grad = None
    _routed(x, logits, weights).square().sum().backward()
    assert weights[0][1].grad is None
    assert torch.equal(weights[0][0].grad, want)


def test_same_bits_twice() -> None:
    x, logits = _normal(50, 3), _normal(50, 8)
    weights = _experts([3] * 8, 3, 4, True)
    first = _routed(x, logits, weights)
    assert all(torch.equal(_routed(x, logits, weights), first) for _ in range(5))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown selector 'best'; allowed: dense, percentile"):
        ops.route(torch.zeros(1, 2), selector="best")
    with pytest.raises(ValueError, match="temperature > 0"):
        ops.route(torch.zeros(1, 2), temperature=0.0)


def test_levels_capacity_and_thresholds_are_checked() -> None:
    for wrong in ({"level": 1.5}, {"capacity": -1}):
        with pytest.raises(ValueError, match=r"level must be 0\.\.1 and capacity >= 0"):
            ops.route(torch.zeros(1, 2), selector="topp", **wrong)
    with pytest.raises(ValueError, match="needs a threshold"):
        ops.route(torch.zeros(1, 2), selector="threshold")
    weights = _experts([2], 1, 1, True)
    with pytest.raises(ValueError, match="unknown activation 'tanh'; allowed: gelu, relu, silu"):
        ops.expert_mlp(torch.zeros(1, 1), torch.tensor([0, 1]), *weights, activation="tanh")


def test_a_library_without_every_kernel_does_not_count_as_compiled() -> None:
    assert ops.backend("meta") == "reference"
    assert "growstage::route" in ops.names()
    assert ops.backend("xpu") == "reference"
    before = ops.compiled("cuda")
    library = torch.library.Library("growstage", "FRAGMENT")
    if "growstage::usage" not in before:
        library.impl("usage", lambda s, d, e, n: torch.full((e, n), 7), "CUDA")
        assert ops.compiled("cuda") == (*before, "growstage::usage")
        assert ops.backend("cuda") == "reference"
    library._destroy()
    assert ops.compiled("cuda") == before


SELECTIONS = {
    "topp": ({"level": 0.7}, [[1, 2, -1], [0, -1, -1]]),
    "percentile": ({"level": 0.5}, [[1, 2, -1], [0, 1, -1]]),
    "threshold": ({"threshold": torch.tensor(0.5)}, [[1, 2, 0], [0, -1, -1]]),
}


@pytest.mark.parametrize("selector", SELECTIONS)
def test_selectors_that_choose_how_many(selector: str) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [9.0, -1.0, -2.0]])
    settings, want = SELECTIONS[selector]
    selected, gate, counts = ops.route(logits, selector=selector, k=3, **settings)
    assert selected.tolist() == want
    assert counts.tolist() == [sum(row.count(e) for row in want) for e in range(3)]
    assert (gate.sum(1) - 1).abs().max() < 1e-6
    assert ((gate > 0) == (selected >= 0)).all()
    capped, _, _ = ops.route(logits, selector=selector, k=1, **settings)
    assert capped.tolist() == [[1], [0]]


def test_top_p_must_exceed_its_level() -> None:
    selected, weights, counts = ops.route(torch.zeros(1, 4), selector="topp", k=4, level=0.5)
    assert selected.tolist() == [[0, 1, 2, -1]]
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]]))
    assert counts.tolist() == [1, 1, 1, 0]


def test_the_best_expert_is_used_whatever_the_threshold() -> None:
    logits = torch.tensor([[1.0, 3.0], [float("-inf"), float("-inf")]])
    selected, gate, counts = ops.route(
        logits, selector="threshold", k=2, threshold=torch.tensor(99.0)
    )
    assert selected.tolist() == [[1, -1], [-1, -1]]
    assert gate.tolist() == [[1, 0], [0, 0]]
    assert counts.tolist() == [0, 1]


def test_capacity_drops_late_comers_and_reweighs_the_rest() -> None:
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    selected, gate, counts = ops.route(logits, selector="topk", k=2, capacity=2)
    assert selected.tolist() == [[0, 1], [0, 1], [-1, -1]]
    assert counts.tolist() == [2, 2]
    assert gate[2].tolist() == [0, 0]
    selected, gate, _ = ops.route(logits, selector="topk", k=2, capacity=1)
    assert selected.tolist() == [[0, 1], [-1, -1], [-1, -1]]
    torch.testing.assert_close(gate[0], torch.softmax(logits[0], 0))


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_masked_rows_teach_their_expert_nothing_and_keep_their_own_gradient(activation) -> None:
    rows, weights = _normal(6, 3), _experts([2, 4], 3, 5, True)
    offsets, learning = torch.tensor([0, 4, 6]), torch.tensor([1, 0, 1, 0, 0, 0]).bool()
    probe = _normal(6, 5, seed=7, grad=False)
    flat = [w for group in weights for w in group]

    def gradients(mask, scale):
        y = ops.expert_mlp(rows, offsets, *weights, activation=activation, learning_S=mask)
        return torch.autograd.grad((y * probe * scale).sum(), [rows, *flat])

    ours = gradients(learning, 1)
    assert torch.equal(ours[0], gradients(None, 1)[0])
    for a, b in zip(ours[1:], gradients(None, learning.unsqueeze(1))[1:], strict=True):
        torch.testing.assert_close(a, b)
    assert ours[2].abs().max() == 0  # expert 1 learns from no row


def test_too_many_slots_are_refused() -> None:
    wide = torch.zeros(1, 1, dtype=torch.int64).expand(2**20, 2**11)
    with pytest.raises(ValueError, match="smaller batches"):
        ops.permute(torch.zeros(1, 1).expand(2**20, 1), wide, 4)
