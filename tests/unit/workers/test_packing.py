"""Tensors in few bits: bytes, rounding, and the choice of bits against all choices there are."""

from __future__ import annotations

import itertools

import pytest
import torch

from workers import checkpoint
from workers.contract import InputError
from workers.packing import GROUP, allot, pack


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_entries_come_back_within_half_a_step(bits: int, symmetric: bool) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(7, 13)
    made = pack(tensor, bits, symmetric)
    assert made.codes_B.numel() == -(-7 * 13 * bits // 8)
    step = made.scale_G.repeat_interleave(GROUP)[: 7 * 13].reshape(7, 13)
    assert ((made.unpacked() - tensor).abs() <= step / 2 + 1e-6).all()
    if not symmetric:
        assert torch.allclose(pack(made.unpacked(), bits).unpacked(), made.unpacked(), atol=1e-5)


def test_values_on_the_steps_and_constants_are_exact() -> None:
    grid = torch.arange(GROUP).remainder(8).float()
    assert torch.equal(pack(grid, 3).unpacked(), grid)
    assert torch.equal(pack(torch.full((40,), 0.7), 2).unpacked(), torch.full((40,), 0.7))
    assert pack(torch.ones(4, dtype=torch.bfloat16), 4).unpacked().dtype is torch.bfloat16


def test_bits_are_allotted_as_by_trying_everything() -> None:
    torch.manual_seed(1)
    widths = (2, 3, 4, 8)
    for average in (2.5, 3.0, 4.4):
        costs = [
            {
                b: float(x)
                for b, x in zip(widths, torch.rand(4).sort(descending=True).values, strict=True)
            }
            for _ in range(5)
        ]
        found = allot(costs, average, (3, 2))
        legal = [
            (sum(cost[b] for cost, b in zip(costs, one, strict=True)), one)
            for one in itertools.product(widths, repeat=5)
            if sum(one) <= average * 5 and {2, 3} <= set(one)
        ]
        assert sum(cost[b] for cost, b in zip(costs, found, strict=True)) == pytest.approx(
            min(legal)[0]
        )
        assert sum(found) <= average * 5
        assert {2, 3} <= set(found)
    with pytest.raises(InputError, match="no choice of bits for 5 experts"):
        allot(costs, 1.9)


def test_a_checkpoint_with_packed_tensors_reads_like_another(tmp_path) -> None:
    kept, rounded = torch.randn(3), torch.randn(40, 5)
    made = pack(rounded, 4)
    model, state = {"bias": kept}, {"arch": {}}
    ref = checkpoint.write_packed(
        str(tmp_path / "copy"), model, {"weight": made}, state, seq=3, stage="s"
    )
    back = checkpoint.read(checkpoint.describe(ref.uri))
    assert back.state == state
    assert set(back.tensors) == {"model"}
    assert torch.equal(back.tensors["model"]["bias"], kept)
    assert torch.equal(back.tensors["model"]["weight"], made.unpacked())
    assert ref.bytes < 40 * 5 * 4 + 1500
