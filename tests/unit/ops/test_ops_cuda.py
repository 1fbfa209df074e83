"""What only a GPU can show: the same choices as the CPU, no host synchronisation, CUDA graphs."""

from __future__ import annotations

import pytest
import torch

import ops
from ops.route import SELECTORS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or ops.backend("cuda") == "reference",
        reason="no CUDA device with compiled kernels",
    ),
]


def _layer(dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], object]:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to("cuda", dtype).requires_grad_()

    x, logits, widths = leaf(256, 64), leaf(256, 8), [16, 48, 64, 32] * 2
    weights = [
        [leaf(h, 64) for h in widths],
        [leaf(h) for h in widths],
        [leaf(64, h) for h in widths],
        [leaf(64) for _ in widths],
    ]

    def step() -> list[torch.Tensor]:
        selected, gate, _ = ops.route(logits, selector="topk", k=2, capacity=50)
        rows, position, offsets = ops.permute(x, selected, 8)
        y = ops.combine(ops.expert_mlp(rows, offsets, *weights), position, gate)
        flat = [w for group in weights for w in group]
        return [y, *torch.autograd.grad(y, [x, logits, *flat], torch.ones_like(y))]

    return [x, logits], step


@pytest.mark.parametrize("selector", SELECTORS)
def test_cpu_and_cuda_choose_the_same_experts(selector: str) -> None:
    # exactly representable scores: sums of exponentials are not compared at near ties
    logits = torch.randint(-64, 64, (500, 24), generator=torch.Generator().manual_seed(1)) / 8
    settings = {"selector": selector, "k": 6, "level": 0.6, "capacity": 70}
    threshold = torch.tensor(3.0)
    host = ops.route(logits, threshold=threshold, **settings)
    device = ops.route(logits.cuda(), threshold=threshold.cuda(), **settings)
    assert torch.equal(host[0], device[0].cpu())
    assert torch.equal(host[2], device[2].cpu())
    torch.testing.assert_close(host[1], device[1].cpu())


def test_compact_observations_give_the_sums_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(-1, 303, (500, 12), generator=generator).short()
    scalars = torch.randn(500, 4, generator=generator).view(torch.int16)
    weight, bias = torch.randn(304, 64, generator=generator), torch.randn(64, generator=generator)
    pairs = torch.tensor([[1, ~4], [~4, 9], [0, ~1]])
    given = (weight, bias, torch.cat([codes, scalars], 1), torch.tensor([4, 17]), pairs, 12)
    moved = [x.cuda() if isinstance(x, torch.Tensor) else x for x in given]
    torch.testing.assert_close(ops.row_sum(*moved).cpu(), ops.row_sum(*given))
    backward, grad = torch.ops.growstage.row_sum_backward, torch.randn(500, 64, generator=generator)
    host = backward(grad, *given[2:], 304)
    for ours, theirs in zip(backward(grad.cuda(), *moved[2:], 304), host, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_host_synchronisation_in_forward_and_backward(dtype: torch.dtype) -> None:
    _, step = _layer(dtype)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_graph_replays_with_new_data() -> None:
    (x, logits), step = _layer()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.mul_(0.5)
        logits.neg_()
    graph.replay()
    replayed = [part.clone() for part in captured]
    assert all(torch.equal(a, b) for a, b in zip(replayed, step(), strict=True))
