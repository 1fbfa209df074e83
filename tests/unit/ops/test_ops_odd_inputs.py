"""Compiled kernels on inputs that a layer rarely makes: odd views, mixed types, empty widths."""

from __future__ import annotations

import pytest
import torch

import ops
from ops.registry import reference

GROWSTAGE = torch.ops.growstage
DEVICES = [device for device in ("cpu", "cuda") if ops.backend(device) == "compiled"]
if not torch.cuda.is_available() and "cuda" in DEVICES:
    DEVICES.remove("cuda")
pytestmark = [
    pytest.mark.skipif(not DEVICES, reason="no compiled kernels in this process"),
    pytest.mark.parametrize("device", DEVICES),
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 6, 16])
def test_views_that_begin_in_the_middle_of_a_word(device, dtype, width):
    storage = normal(1 + 20 * width).to(device, dtype)
    x = storage[1:].view(20, width)
    selected = (torch.arange(40, device=device) % 5 - 1).view(20, 2)
    rows, position, offsets = GROWSTAGE.permute(x, selected, 4, selected.numel())
    expected, *_ = GROWSTAGE.permute(x.clone(), selected, 4, selected.numel())
    assert torch.equal(rows, expected)
    assert torch.equal(rows[: offsets[-1]], x[torch.arange(20).to(device).repeat_interleave(2)][
        position.flatten().argsort(stable=True)[(position < 0).sum() :]
    ])  # fmt: skip
    odd = torch.cat([rows.new_zeros(1), rows.flatten()])[1:].view(40, width)
    gates = normal(20, 2).to(device, dtype)
    assert torch.equal(
        GROWSTAGE.combine(odd, position, gates), GROWSTAGE.combine(rows, position, gates)
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int16])
def test_rows_of_small_elements_move_too(device, dtype):
    x = torch.arange(15, device=device).view(5, 3).to(dtype)
    selected = torch.tensor([[1], [0], [-1], [0], [1]], device=device)
    rows, _, _ = GROWSTAGE.permute(x, selected, 2, selected.numel())
    assert torch.equal(rows[:4], x[[1, 3, 0, 4]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_noise_and_weights_beside_half_types_are_not_rounded(device, dtype):
    logits, noise = torch.zeros(64, 8, dtype=dtype, device=device), normal(64, 8) * 1e-3
    noise = (noise + 1).to(device)  # differences far below the spacing of half types
    selected, _, _ = ops.route(logits, selector="topk", k=3, noise_TE=noise)
    assert torch.equal(selected, noise.topk(3).indices)
    rows, gates = normal(64, 4, seed=1).to(device, dtype), noise[:, :1].contiguous()
    position = torch.arange(64, device=device).view(64, 1)
    y = GROWSTAGE.combine(rows, position, gates)
    assert torch.equal(y, (rows.float() * gates).to(dtype))
    grad_rows, grad_gates = GROWSTAGE.combine_backward(y, rows, position, gates)
    assert torch.equal(grad_rows, (y.float() * gates).to(dtype))
    assert grad_gates.dtype == torch.float32
    expected = (y.double() * rows.double()).sum(1, keepdim=True)
    torch.testing.assert_close(grad_gates.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("inputs", [0, 3])
@pytest.mark.parametrize("widths", [(0, 4), (0, 0)])
def test_experts_without_units_or_inputs_still_learn_their_biases(device, inputs, widths):
    x, grad = normal(7, inputs).to(device).double(), normal(7, 5).to(device).double()
    offsets = torch.tensor([0, 4, 7], device=device)
    up = [normal(h, inputs).to(x) for h in widths]
    down = [normal(5, h).to(x) for h in widths]
    biases = [normal(h).to(x) for h in widths], [normal(5).to(x) for _ in widths]
    given = (x, offsets, up, biases[0], down, biases[1], None, 0, False)
    ours, theirs = GROWSTAGE.expert_mlp(*given), reference("growstage::expert_mlp")(*given)
    torch.testing.assert_close(ours, theirs)
    back = (grad, x, theirs[1], offsets, up, down, None, [True, True], True, 0, False)
    name = "growstage::expert_mlp_backward"
    torch.testing.assert_close(GROWSTAGE.expert_mlp_backward(*back), reference(name)(*back))


def test_frozen_experts_change_no_gradient_when_rows_want_none(device):
    widths, x, grad = (3, 8, 5), normal(30, 4).to(device), normal(30, 6).to(device)
    offsets = torch.tensor([0, 9, 20, 28], device=device)
    up, down = ([normal(*s).to(device) for s in shapes] for shapes in (
        [(h, 4) for h in widths], [(6, h) for h in widths]
    ))  # fmt: skip
    biases = [normal(h).to(device) for h in widths], [normal(6).to(device) for _ in widths]
    _, hidden = GROWSTAGE.expert_mlp(x, offsets, up, biases[0], down, biases[1], None, 1, False)
    given = (grad, x, hidden, offsets, up, down, None)
    whole = GROWSTAGE.expert_mlp_backward(*given, [True] * 3, True, 1, False)
    part = GROWSTAGE.expert_mlp_backward(*given, [True, False, True], False, 1, False)
    assert part[0].shape == (0, 4)
    for all_of_it, some in zip(whole[1:], part[1:], strict=True):
        assert torch.equal(all_of_it[0], some[0])
        assert torch.equal(all_of_it[2], some[2])
        assert some[1].numel() == 0
