"""Gated experts, and experts without biases: formula, gradients, and kernels against references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.library import opcheck

import ops
from ops.expert_mlp import ACTIVATIONS
from ops.registry import reference

GROWSTAGE = torch.ops.growstage
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
COMPILED = [device for device in DEVICES if ops.backend(device) == "compiled"]
kernels = pytest.mark.skipif(not COMPILED, reason="no compiled kernels in this process")
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 2e-4, "atol": 5e-5},
    torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2},
    torch.float16: {"rtol": 5e-3, "atol": 5e-3},
}
FUZZ = settings(
    max_examples=140, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
RELU, GELU, SILU = range(len(ACTIVATIONS))


class Random:
    """Tensors of one seed, type and device."""

    def __init__(self, seed: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device, self.dtype = device, dtype

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        values = torch.randn(*shape, dtype=torch.float64, generator=self.generator) * scale
        return values.to(self.device, self.dtype)

    def flags(self, share: float, *shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=self.generator) < share).to(self.device)

    def experts(self, widths, inputs, outputs, *, gated=True, biased=False, down=True, scale=1.0):
        """The four lists of ``expert_mlp``."""
        tall = [h * (2 if gated else 1) if down else outputs for h in widths]
        up = [self.normal(h, inputs, scale=scale) for h in tall]
        up_bias = [self.normal(h, scale=scale) for h in tall if biased]
        if not down:
            return up, up_bias, [], []
        last = [self.normal(outputs, h, scale=scale) for h in widths]
        return up, up_bias, last, [self.normal(outputs, scale=scale) for _ in widths if biased]

    def offsets(self, experts: int, rows: int) -> torch.Tensor:
        inner = torch.randint(0, rows + 1, (experts,), generator=self.generator).sort().values
        return torch.cat([inner.new_zeros(1), inner]).to(self.device)


def _formula(rows, offsets, up, up_bias, down, down_bias, activation: int) -> torch.Tensor:
    """Row by row, with the halves of ``up`` taken apart."""
    function, y = list(ACTIVATIONS.values())[activation][0], []
    for s in range(len(rows)):
        e = int((offsets[1:] <= s).sum())
        if e == len(up):
            y.append(rows[s, :1].sum() * 0 + rows.new_zeros(down[0].shape[0]))
            continue
        gate, value = up[e][: len(up[e]) // 2] @ rows[s], up[e][len(up[e]) // 2 :] @ rows[s]
        if up_bias:
            gate, value = gate + up_bias[e][: len(gate)], value + up_bias[e][len(gate) :]
        answer = down[e] @ (function(gate) * value)
        y.append(answer + down_bias[e] if down_bias else answer)
    return torch.stack(y)


def _flat(*parts) -> list[torch.Tensor]:
    return [x for part in parts for x in (part if isinstance(part, list) else [part])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biased", [False, True])
def test_output_and_gradients_equal_the_formula(device, activation, biased) -> None:
    random = Random(1, device)
    weights = random.experts([2, 5, 3, 1], 4, 6, biased=biased)
    rows, offsets = random.normal(9, 4), torch.tensor([0, 3, 3, 6, 7], device=device)
    leaves = [leaf.requires_grad_() for leaf in (rows, *_flat(*weights))]
    got = ops.expert_mlp(rows, offsets, *weights, activation=activation, gated=True)
    want = _formula(rows, offsets, *weights, list(ACTIVATIONS).index(activation))
    torch.testing.assert_close(got, want)
    assert not got[7:].any()
    probe = random.normal(9, 6)
    ours = torch.autograd.grad((got * probe).sum(), leaves)
    theirs = torch.autograd.grad((want * probe).sum(), leaves, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_gradcheck(activation) -> None:
    random, offsets = Random(2), torch.tensor([0, 3, 5])
    rows = random.normal(6, 3).requires_grad_()
    up, _, down, _ = random.experts([2, 3], 3, 2)
    flat = [w.requires_grad_() for w in (*up, *down)]

    def run(rows, *flat):
        return ops.expert_mlp(
            rows, offsets, flat[:2], down=flat[2:], activation=activation, gated=True
        )

    assert torch.autograd.gradcheck(run, (rows, *flat))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gated", [True, False])
def test_opcheck_without_biases(device, gated) -> None:
    random = Random(3, device)
    rows, offsets = random.normal(8, 3), torch.tensor([0, 3, 3, 7], device=device)
    weights = random.experts([2, 4, 3], 3, 5, gated=gated)
    learning = random.flags(0.6, 8)
    leaf = rows.clone().requires_grad_()
    opcheck(GROWSTAGE.expert_mlp.default, (leaf, offsets, *weights, learning, SILU, False, gated))
    _, hidden = GROWSTAGE.expert_mlp(rows, offsets, *weights, None, SILU, False, gated)
    args = (random.normal(8, 5), rows, hidden, offsets, weights[0], weights[2], None)
    how = ([True, False, True], True, SILU, False, gated, False)
    opcheck(GROWSTAGE.expert_mlp_backward.default, (*args, *how))


@pytest.mark.parametrize("device", DEVICES)
def test_frozen_experts_get_no_gradient_and_change_no_other(device) -> None:
    random = Random(4, device)
    rows, offsets = random.normal(9, 3), torch.tensor([0, 3, 6, 9], device=device)
    up, _, down, _ = random.experts([2, 4, 3], 3, 5)
    leaves = [w.requires_grad_() for w in (*up, *down)]

    def step() -> None:
        y = ops.expert_mlp(rows, offsets, up, down=down, activation="silu", gated=True)
        y.square().sum().backward()

    step()
    want = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    up[1].requires_grad_(False)
    down[1].requires_grad_(False)
    step()
    assert up[1].grad is None
    assert down[1].grad is None
    assert torch.equal(up[0].grad, want[0])
    assert torch.equal(down[2].grad, want[5])
    _, hidden = GROWSTAGE.expert_mlp(rows, offsets, up, [], down, [], None, SILU, False, True)
    how = ([True, False, True], False, SILU, False, True, False)
    given = (random.normal(9, 5), rows, hidden, offsets, up, down, None)
    with torch.no_grad():
        answer = GROWSTAGE.expert_mlp_backward(*given, *how)
    grad_rows, d_up, d_up_bias, d_down, d_down_bias = answer
    assert (grad_rows.shape, d_up[1].numel(), d_down[1].numel()) == ((0, 3), 0, 0)
    assert (d_up_bias, d_down_bias) == ([], [])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_masked_rows_teach_their_expert_nothing_and_keep_their_own_gradient(
    device, activation
) -> None:
    random = Random(5, device)
    rows = random.normal(6, 3).requires_grad_()
    up, _, down, _ = random.experts([2, 4], 3, 5)
    flat = [w.requires_grad_() for w in (*up, *down)]
    offsets = torch.tensor([0, 4, 6], device=device)
    learning = torch.tensor([1, 0, 1, 0, 0, 0], device=device).bool()
    probe = random.normal(6, 5)

    def gradients(mask, scale):
        how = {"activation": activation, "gated": True, "learning_S": mask}
        y = ops.expert_mlp(rows, offsets, up, down=down, **how)
        return torch.autograd.grad((y * probe * scale).sum(), [rows, *flat])

    ours = gradients(learning, 1)
    assert torch.equal(ours[0], gradients(None, 1)[0])
    for a, b in zip(ours[1:], gradients(None, learning.unsqueeze(1))[1:], strict=True):
        torch.testing.assert_close(a, b)
    assert ours[2].abs().max() == 0  # expert 1 learns from no row


def _agree(name: str, *args, dtype=torch.float64) -> None:
    ours, theirs = (
        _flat(*function(*args))
        for function in (getattr(GROWSTAGE, name).default, reference(f"growstage::{name}"))
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, equal_nan=True, **TOLERANCE[dtype])


@kernels
@pytest.mark.parametrize("device", COMPILED)
@FUZZ
@given(
    rows=st.integers(0, 60),
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    form=st.sampled_from(["gated", "gated", "two layers", "linear"]),
    biased=st.sampled_from([False, False, True]),
    masked=st.booleans(),
    activation=st.integers(0, len(ACTIVATIONS) - 1),
    dtype=st.sampled_from([torch.float64, torch.float64, torch.float32]),
    seed=st.integers(0, 10**6),
)
def test_fuzz_kernels_equal_the_reference(
    device, rows, widths, inputs, outputs, form, biased, masked, activation, dtype, seed
):
    random, gated = Random(seed, device, dtype), form == "gated"
    weights = random.experts(
        widths, inputs, outputs, gated=gated, biased=biased, down=form != "linear", scale=0.5
    )
    offsets, x = random.offsets(len(widths), rows), random.normal(rows, inputs)
    learning = random.flags(0.6, rows) if masked else None
    given = (x, offsets, *weights, learning, activation, False, gated)
    _agree("expert_mlp", *given, dtype=dtype)
    _, hidden = reference("growstage::expert_mlp")(*given)
    trainable = random.flags(0.7, len(widths)).tolist()
    args = (random.normal(rows, outputs), x, hidden, offsets, weights[0], weights[2], learning)
    for wanted in (True, False):
        how = (trainable, wanted, activation, False, gated, biased)
        _agree("expert_mlp_backward", *args, *how, dtype=dtype)


@kernels
@pytest.mark.parametrize("device", COMPILED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_types(device: str, dtype: torch.dtype) -> None:
    random = Random(6, device, dtype)
    rows, offsets = random.normal(300, 16), random.offsets(6, 300)
    weights = random.experts([8, 24] * 3, 16, 16, scale=0.25)
    given = (rows, offsets, *weights, None, SILU, False, True)
    _agree("expert_mlp", *given, dtype=dtype)
    hidden = reference("growstage::expert_mlp")(*given)[1]
    grad = random.normal(300, 16, scale=0.1)
    args = (grad, rows, hidden, offsets, weights[0], weights[2], None)
    how = ([True] * 6, True, SILU, False, True, False)
    name = "growstage::expert_mlp_backward"
    for a, b in zip(
        _flat(*GROWSTAGE.expert_mlp_backward(*args, *how)),
        _flat(*reference(name)(*args, *how)),
        strict=True,
    ):
        assert a.dtype == b.dtype == dtype
        off = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
        assert (a.float() - b.float()).norm() <= off * b.float().norm() + 1e-6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("activation", "atol"), [("silu", 1e-30), ("gelu", 1e-6)])
def test_activations_are_right_to_a_few_roundings_over_all_of_their_range(
    device, activation, atol
) -> None:
    gate = torch.cat([torch.linspace(-120, 120, 4001), torch.tensor([-3e38, -1e-30, 0.0, 3e38])])
    rows = torch.stack([gate, torch.ones_like(gate)], 1).to(device).requires_grad_()
    offsets = torch.tensor([0, len(gate)], device=device)
    up, down = [torch.eye(2, device=device)], [torch.ones(1, 1, device=device)]
    y = ops.expert_mlp(rows, offsets, up, down=down, activation=activation, gated=True)
    exact = gate.double().requires_grad_()
    want = ACTIVATIONS[activation][0](exact)
    torch.testing.assert_close(y.flatten().cpu().double(), want, rtol=1e-6, atol=atol)
    ours = torch.autograd.grad(y.sum(), rows)[0][:-4, 0]  # an infinite slope times 0 is NaN
    theirs = torch.autograd.grad(want.sum(), exact)[0][:-4]
    torch.testing.assert_close(ours.cpu().double(), theirs, rtol=1e-6, atol=1e-6)


@kernels
@pytest.mark.parametrize("device", COMPILED)
def test_experts_of_more_rows_than_one_piece_of_work(device: str) -> None:
    random = Random(7, device, torch.float32)
    weights = random.experts([48, 16, 32], 24, 24, scale=0.2)
    rows, grad = random.normal(9000, 24), random.normal(9000, 24)
    offsets = torch.tensor([0, 6000, 6000, 8700], device=device)
    learning = random.flags(0.5, 9000)
    given = (rows, offsets, *weights, learning, SILU, False, True)
    y, hidden = GROWSTAGE.expert_mlp(*given)
    want, _ = reference("growstage::expert_mlp")(*given)
    assert (y - want).norm() <= 1e-5 * want.norm()
    args = (grad, rows, hidden, offsets, weights[0], weights[2], learning)
    how = ([True] * 3, True, SILU, False, True, False)
    ours = _flat(*GROWSTAGE.expert_mlp_backward(*args, *how))
    theirs = _flat(*reference("growstage::expert_mlp_backward")(*args, *how))
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-6
    assert not ours[2].any()  # the expert without rows
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours, _flat(*GROWSTAGE.expert_mlp_backward(*args, *how)), strict=True)
    )


@pytest.mark.parametrize("device", DEVICES)
def test_nan_rows_stay_in_their_row_and_out_of_masked_sums(device: str) -> None:
    random = Random(8, device, torch.float32)
    weights = random.experts([4, 4], 3, 3)
    rows, offsets = random.normal(6, 3), torch.tensor([0, 3, 6], device=device)
    rows[1, 0], rows[4, 1] = float("nan"), float("inf")
    learning = torch.tensor([1, 0, 1, 1, 0, 1], device=device).bool()
    for activation in (RELU, GELU, SILU):
        given = (rows, offsets, *weights, learning, activation, False, True)
        y, hidden = GROWSTAGE.expert_mlp(*given)
        assert y[1].isnan().all()
        assert y[[0, 2, 3, 5]].isfinite().all()
        args = (random.normal(6, 3), rows, hidden, offsets, weights[0], weights[2], learning)
        how = ([True, True], True, activation, False, True, False)
        _, *parameters = GROWSTAGE.expert_mlp_backward(*args, *how)
        assert all(g.isfinite().all() for g in _flat(*parameters))


@pytest.mark.parametrize("device", DEVICES)
def test_a_whole_layer_compiles_into_one_graph(device: str) -> None:
    random = Random(9, device, torch.float32)
    x, logits = random.normal(64, 8), random.normal(64, 4)
    up, _, down, _ = random.experts([3, 8, 5, 8], 8, 6)
    leaves = [leaf.requires_grad_() for leaf in (x, logits, *up, *down)]

    def layer(x, logits, up, down):
        selected, gate, _ = ops.route(logits, selector="topk", k=2)
        rows, position, offsets = ops.permute(x, selected, 4)
        rows = ops.expert_mlp(rows, offsets, up, down=down, activation="silu", gated=True)
        return ops.combine(rows, position, gate).tanh()

    want = layer(x, logits, up, down)
    got = torch.compile(layer, fullgraph=True, backend="aot_eager")(x, logits, up, down)
    torch.testing.assert_close(got, want)
    ours, theirs = (torch.autograd.grad(y.square().sum(), leaves) for y in (got, want))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_wrong_arguments_are_named() -> None:
    x, good, up = torch.zeros(4, 3), torch.tensor([0, 4]), [torch.zeros(4, 3)]
    down = [torch.zeros(3, 2)]
    with pytest.raises(ValueError, match="gated experts need a down"):
        ops.expert_mlp(x, good, up, gated=True)
    for biases in ({"up_bias": [torch.zeros(4)]}, {"down_bias": [torch.zeros(3)]}):
        with pytest.raises(ValueError, match="one bias for each weight, or none"):
            ops.expert_mlp(x, good, up, down=down, gated=True, **biases)


@kernels
@pytest.mark.parametrize("device", COMPILED)
def test_shapes_that_do_not_fit_are_refused(device: str) -> None:
    x, good = torch.zeros(4, 3, device=device), torch.tensor([0, 4], device=device)
    down = [torch.zeros(3, 2, device=device)]
    for rows, message in ((5, "even number of rows"), (6, r"down must be \[3, 3\]")):
        with pytest.raises(RuntimeError, match=message):
            ops.expert_mlp(x, good, [torch.zeros(rows, 3, device=device)], down=down, gated=True)
