"""``row_sum`` is the dense product of the observation it stands for, in both directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ops
from ops.registry import compiled, reference
from workers.compact_layout import Compact

NAME = "growstage::row_sum"
LAYOUT = Compact(
    ones=12,
    scalars=3,
    slots=6,
    usual=(1, 2, 7),
    derived=((~1, ~2), (8, ~7), (9, ~7)),
)
DEVICES = [device for device in ("cpu", "cuda") if NAME in compiled(device)]
if not torch.cuda.is_available() and "cuda" in DEVICES:
    DEVICES.remove("cuda")
EMPTY = Compact(ones=5, scalars=0, slots=2)


def short(layout: Compact, batch: int, seed: int) -> torch.Tensor:
    """Random codes, each at most once an observation, and scalars of which some are 0."""
    rng = np.random.default_rng(seed)
    codes = layout.ones + len(layout.derived)
    picked = [rng.choice(np.arange(-1, codes), layout.slots, replace=False) for _ in range(batch)]
    real = rng.normal(size=(batch, layout.scalars)) * (rng.random((batch, layout.scalars)) < 0.6)
    bits = real.astype(np.float32).view(np.int16)
    entries = np.array(picked, np.int16).reshape(batch, layout.slots)
    return torch.from_numpy(np.concatenate([entries, bits], 1))


def arguments(layout: Compact, batch: int, width: int, dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(layout.dense_width, width, generator=generator, dtype=dtype)
    bias = torch.randn(width, generator=generator, dtype=dtype)
    derived = torch.tensor(layout.derived, dtype=torch.long).reshape(-1, 2)
    usual = torch.tensor(layout.usual, dtype=torch.long)
    return weight, bias, short(layout, batch, seed), usual, derived, layout.slots


def moved(given: tuple, device: str) -> tuple:
    return tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in given)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 70),
    width=st.sampled_from([1, 7, 64, 128, 130, 300]),
    layout=st.sampled_from([LAYOUT, EMPTY]),
    double=st.booleans(),
)
def test_the_sum_of_rows_is_the_dense_product_and_so_are_its_gradients(
    batch, width, layout, double
):
    dtype, close = (torch.float64, 1e-10) if double else (torch.float32, 1e-4)
    weight, bias, entries, *rest = arguments(layout, batch, width, dtype, seed=batch)
    x = torch.from_numpy(layout.dense(entries.numpy())).to(dtype)
    leaves = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    y = ops.row_sum(leaves[0], leaves[1], entries, *rest)
    assert torch.allclose(y, x @ weight + bias, atol=close)
    grad = torch.randn(y.shape, dtype=dtype)
    y.backward(grad)
    assert torch.allclose(leaves[0].grad, x.t() @ grad, atol=close)
    assert torch.allclose(leaves[1].grad, grad.sum(0), atol=close)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_compiled_kernel_agrees_with_the_reference(device, dtype):
    given = moved(arguments(LAYOUT, 33, 144, dtype), device)
    close = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.1}[dtype]
    assert torch.allclose(ops.row_sum(*given), reference(NAME)(*given), atol=close)
    grad = torch.randn(33, 144).to(device, dtype)
    backward = torch.ops.growstage.row_sum_backward
    rest = (*given[2:], given[0].shape[0])
    if dtype != torch.bfloat16:  # sparse products have no half types
        for ours, theirs in zip(
            backward(grad, *rest), reference(f"{NAME}_backward")(grad, *rest), strict=True
        ):
            assert torch.allclose(ours, theirs, atol=close * 10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 700, 9000])
def test_lists_of_samples_long_repeated_and_empty(device, batch):
    """Codes of every sample, of none, several times in one; the same bits every time."""
    width, layout = 40, Compact(ones=300, scalars=2, slots=8, usual=(7,), derived=((3, ~7),))
    weight, bias, entries, *rest = moved(arguments(layout, batch, width, seed=3), device)
    entries[:, 0], entries[:, 1], entries[::3, 2] = 5, layout.ones, 5
    entries[:, 3] = entries[:, 3].clamp(max=99)
    grad = torch.randn(batch, width, dtype=torch.float64).to(device)
    assert torch.allclose(
        ops.row_sum(weight, bias, entries, *rest), reference(NAME)(weight, bias, entries, *rest)
    )
    given = (grad, entries, *rest, len(weight))
    ours = torch.ops.growstage.row_sum_backward(*given)
    for mine, theirs in zip(ours, reference(f"{NAME}_backward")(*given), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-9)
    again = torch.ops.growstage.row_sum_backward(*given)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_scalars_of_zero_stay_where_they_are(device):
    weight, bias, entries, *rest = moved(arguments(LAYOUT, 6, 5), device)
    entries[:, LAYOUT.slots :], entries[2, :] = 0, -1
    entries[2, LAYOUT.slots :] = 0
    weight[LAYOUT.ones :] = float("nan")  # rows of scalars, all of which are 0
    assert ops.row_sum(weight, bias, entries, *rest).isfinite().all()
    grad = torch.ones(6, 5, dtype=torch.float64, device=device)
    grad[2] = float("nan")  # a sample without a code of its own
    rows, total = torch.ops.growstage.row_sum_backward(grad, entries, *rest, len(weight))
    assert total.isnan().all()
    touched = rows.isnan().any(1).nonzero().flatten().tolist()
    assert touched == sorted(LAYOUT.usual)


def test_the_op_is_registered_as_torch_wants_it():
    weight, bias, *rest = arguments(LAYOUT, 5, 8)
    for tensor in (weight, bias):
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.growstage.row_sum.default, (weight, bias, *rest))


@pytest.mark.skipif(NAME not in compiled("cpu"), reason="no compiled kernel here")
def test_a_code_outside_the_weight_is_refused_not_read():
    given = list(arguments(LAYOUT, 4, 8))
    given[2] = given[2].clone()
    given[2][2, 1] = LAYOUT.ones + len(LAYOUT.derived)
    with pytest.raises(RuntimeError, match="lies outside"):
        ops.row_sum(*given)


def test_the_same_bits_whatever_the_batch_is_split_into():
    given = arguments(LAYOUT, 100, 256, torch.float32)
    whole = ops.row_sum(*given)
    parts = [ops.row_sum(*given[:2], part.contiguous(), *given[3:]) for part in given[2].split(7)]
    if NAME in compiled("cpu"):
        assert torch.equal(whole, torch.cat(parts))
    else:
        assert torch.allclose(whole, torch.cat(parts), atol=1e-5)
