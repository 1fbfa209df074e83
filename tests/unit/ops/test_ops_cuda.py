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
    first, first_bias = leaf(64, 64), leaf(64)
    codes = torch.randint(-1, 65, (256, 6), generator=generator).short().cuda()
    layout = (codes, torch.tensor([3]).cuda(), torch.tensor([[1, ~3]]).cuda(), 6)
    learning = (torch.arange(512) % 3 > 0).cuda()
    weights = [
        [leaf(h, 64) for h in widths],
        [leaf(h) for h in widths],
        [leaf(64, h) for h in widths],
        [leaf(64) for _ in widths],
    ]
    gate_up, last = [leaf(2 * h, 64) for h in widths], [leaf(64, h) for h in widths]
    gated = {"down": last, "activation": "silu", "gated": True, "learning_S": learning}

    def step() -> list[torch.Tensor]:
        selected, gate, _ = ops.route(logits, selector="topk", k=2, capacity=50)
        seen = x + ops.row_sum(first, first_bias, *layout)
        rows, position, offsets = ops.permute(seen, selected, 8)
        rows = ops.expert_mlp(rows, offsets, *weights, learning_S=learning)
        rows = rows + ops.expert_mlp(rows, offsets, gate_up, **gated)
        y = ops.combine(rows, position, gate)
        table = ops.usage(selected, selected[:, 0] % 3, 8, 3)
        leaves = [x, logits, first, first_bias, *gate_up, *last]
        leaves += [w for group in weights for w in group]
        return [y, table, *torch.autograd.grad(y, leaves, torch.ones_like(y))]

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


@pytest.mark.parametrize("selector", [name for name in SELECTORS if name != "topp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_choices_are_equal_to_the_bit_for_any_scores(selector: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3000, 70, generator=generator).to(dtype)
    logits[:, 40:] = logits[:, :30]  # ties
    logits[7, 3], logits[8, 5], logits[9] = float("nan"), float("inf"), float("-inf")
    given = {
        "noise_TE": torch.randn(3000, 70, generator=generator),
        "allowed_TE": torch.rand(3000, 70, generator=generator) > 0.2,
        "threshold": torch.tensor(0.7),
    }
    settings = {"selector": selector, "k": 9, "level": 0.83, "capacity": 300, "temperature": 0.7}
    selected, _, counts = ops.route(logits, **given, **settings)
    moved = {name: value.cuda() for name, value in given.items()}
    ours, _, our_counts = ops.route(logits.cuda(), **moved, **settings)
    assert torch.equal(ours.cpu(), selected)
    assert torch.equal(our_counts.cpu(), counts)
    x = torch.arange(3000.0).unsqueeze(1)
    sorted_by_host = ops.permute(x, selected, 70)
    for mine, theirs in zip(ops.permute(x.cuda(), ours, 70), sorted_by_host, strict=True):
        assert torch.equal(mine.cpu(), theirs)


def test_tensors_of_the_host_are_refused_not_read() -> None:
    rows, weights = torch.zeros(4, 2).cuda(), torch.zeros(2, 2).cuda()
    position = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="on the same device"):
        ops.combine(rows, position, weights)
    with pytest.raises(RuntimeError, match="on the same device"):
        ops.permute(weights, position, 2)


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
