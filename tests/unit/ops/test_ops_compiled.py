"""Every compiled kernel against the reference of the same op, on the devices at hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.library import opcheck

import ops
from ops.expert_mlp import ACTIVATIONS
from ops.registry import reference
from ops.route import SELECTORS

GROWSTAGE = torch.ops.growstage
DEVICES = [device for device in ("cpu", "cuda") if ops.backend(device) == "compiled"]
if not torch.cuda.is_available() and "cuda" in DEVICES:
    DEVICES.remove("cuda")
pytestmark = pytest.mark.skipif(not DEVICES, reason="no compiled kernels in this process")
TOLERANCE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
    torch.float32: {"rtol": 2e-4, "atol": 2e-5},
    torch.bfloat16: {"rtol": 5e-2, "atol": 5e-2},
    torch.float16: {"rtol": 5e-3, "atol": 5e-3},
}
FUZZ = settings(
    max_examples=140, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
sizes = st.integers(1, 9)


def _both(name: str, *args):
    """What the kernel and what the reference answer, as flat lists of tensors."""
    answers = []
    for function in (getattr(GROWSTAGE, name).default, reference(f"growstage::{name}")):
        result = function(*args)
        flat = []
        for part in result if isinstance(result, tuple) else (result,):
            flat += part if isinstance(part, list) else [part]
        answers.append(flat)
    assert len(answers[0]) == len(answers[1])
    return zip(*answers, strict=True)


def _agree(name: str, *args, dtype=torch.float64) -> None:
    for ours, theirs in _both(name, *args):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, equal_nan=True, **TOLERANCE[dtype])


class Random:
    """Tensors of one seed, type and device."""

    def __init__(self, seed: int, device: str, dtype: torch.dtype = torch.float64) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.device, self.dtype = device, dtype

    def normal(self, *shape: int) -> torch.Tensor:
        values = torch.randn(*shape, dtype=torch.float64, generator=self.generator)
        return values.to(self.device, self.dtype)

    def below(self, limit: int, *shape: int, least: int = 0) -> torch.Tensor:
        return torch.randint(least, limit, shape, generator=self.generator).to(self.device)

    def flags(self, share: float, *shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=self.generator) < share).to(self.device)


def _weights(random: Random, widths: list[int], inputs: int, outputs: int, two: bool):
    widths = widths if two else [outputs] * len(widths)
    up = [random.normal(h, inputs) for h in widths]
    up_bias = [random.normal(h) for h in widths]
    if not two:
        return up, up_bias, [], []
    down = [random.normal(outputs, h) for h in widths]
    return up, up_bias, down, [random.normal(outputs) for _ in widths]


def _offsets(random: Random, experts: int, rows: int) -> torch.Tensor:
    inner = random.below(rows + 1, experts).sort().values
    return torch.cat([inner.new_zeros(1), inner])


@pytest.mark.parametrize("device", DEVICES)
@FUZZ
@given(
    tokens=st.integers(0, 40),
    experts=st.integers(1, 70),
    k=st.integers(1, 12),
    selector=st.integers(0, len(SELECTORS) - 1),
    level=st.floats(0.05, 0.95),
    capacity=st.sampled_from([0, 0, 1, 5]),
    share=st.sampled_from([0.0, 0.3, 0.9]),
    nan=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_fuzz_route(device, tokens, experts, k, selector, level, capacity, share, nan, seed):
    random = Random(seed, device)
    logits, noise = random.normal(tokens, experts), random.normal(tokens, experts)
    if nan and tokens:
        logits[seed % tokens, seed % experts] = float("nan")
    args = (selector, k, 0.7, level, capacity)
    allowed = None if share == 0 else random.flags(share, tokens, experts)
    noise = noise if seed % 2 else None
    threshold = random.normal(1).squeeze()
    _agree("route", logits, noise, allowed, threshold, *args)
    weights, selected, _ = GROWSTAGE.route(logits, noise, allowed, threshold, *args)
    grad = random.normal(*weights.shape)
    _agree("route_backward", grad, selected, weights, experts, 0.7)


@pytest.mark.parametrize("device", DEVICES)
@FUZZ
@given(
    tokens=st.integers(0, 50),
    slots=st.integers(1, 6),
    experts=st.integers(1, 40),
    width=st.integers(1, 37),
    unused=st.sampled_from([0, 1, 1000]),
    strided=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_fuzz_permute_combine_usage(device, tokens, slots, experts, width, unused, strided, seed):
    random = Random(seed, device)
    selected = random.below(experts, tokens, slots, least=-unused).clamp(min=-1)
    x = random.normal(width, tokens).t() if strided else random.normal(tokens, width)
    used, most = int(((selected >= 0) & (selected < experts)).sum()), tokens * slots
    room = min(most, max(1, used + seed % (most - used + 1)))
    rows, position, offsets = GROWSTAGE.permute(x, selected, experts, room)
    want = reference("growstage::permute")(x, selected, experts, room)
    want_rows, want_position, want_offsets = want
    assert len(rows) == room
    assert int(offsets[-1]) == used
    assert torch.equal(position, want_position)
    assert torch.equal(offsets, want_offsets)
    assert torch.equal(rows[:used], want_rows[:used])
    assert (rows[used:] == 0).all()
    values, gates = random.normal(room, width), random.normal(tokens, slots)
    grad = random.normal(width, tokens).t() if strided else random.normal(tokens, width)
    _agree("permute_backward", values, position)
    _agree("combine", values, position, gates)
    _agree("combine_backward", grad, values, position, gates)
    domain = random.below(3, tokens)
    _agree("usage", selected, domain, experts, 3)


@pytest.mark.parametrize("device", DEVICES)
@FUZZ
@given(
    rows=st.integers(0, 60),
    widths=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    two=st.booleans(),
    masked=st.booleans(),
    activation=st.integers(0, len(ACTIVATIONS) - 1),
    dtype=st.sampled_from([torch.float64, torch.float64, torch.float32]),
    seed=st.integers(0, 10**6),
)
def test_fuzz_expert_mlp(
    device, rows, widths, inputs, outputs, two, masked, activation, dtype, seed
):
    random = Random(seed, device, dtype)
    weights = _weights(random, widths, inputs, outputs, two)
    offsets, x = _offsets(random, len(widths), rows), random.normal(rows, inputs)
    learning = random.flags(0.6, rows) if masked else None
    _agree("expert_mlp", x, offsets, *weights, learning, activation, False, dtype=dtype)
    _, hidden = reference("growstage::expert_mlp")(
        x, offsets, *weights, learning, activation, False
    )
    trainable = random.flags(0.7, len(widths)).tolist()
    args = (random.normal(rows, outputs), x, hidden, offsets, weights[0], weights[2], learning)
    for wanted in (True, False):
        _agree("expert_mlp_backward", *args, trainable, wanted, activation, False, dtype=dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_types(device: str, dtype: torch.dtype) -> None:
    random = Random(3, device, dtype)
    logits, x = random.normal(300, 12), random.normal(300, 16)
    _agree("route", logits, None, None, None, 1, 4, 1.0, 1.0, 0, dtype=dtype)
    weights, selected, _ = GROWSTAGE.route(logits, None, None, None, 1, 4, 1.0, 1.0, 0)
    _agree("route_backward", weights + 1, selected, weights, 12, 1.0, dtype=dtype)
    rows, position, offsets = GROWSTAGE.permute(x, selected, 12, selected.numel())
    _agree("permute_backward", rows, position, dtype=dtype)
    _agree("combine", rows, position, weights, dtype=dtype)
    _agree("combine_backward", x, rows, position, weights, dtype=dtype)
    experts = [[w / 4 for w in group] for group in _weights(random, [8, 24] * 6, 16, 16, True)]
    _agree("expert_mlp", rows, offsets, *experts, None, 1, False, dtype=dtype)


@pytest.mark.parametrize("device", DEVICES)
def test_work_is_cut_into_pieces_whatever_the_number_of_threads(device: str) -> None:
    random = Random(5, device, torch.float32)
    weights = _weights(random, [48, 16, 32], 24, 24, True)
    rows, offsets = random.normal(9000, 24), torch.tensor([0, 6000, 6000, 8700], device=device)
    _, hidden = GROWSTAGE.expert_mlp(rows, offsets, *weights, None, 0, False)
    grad = random.normal(9000, 24)
    args = (grad, rows, hidden, offsets, weights[0], weights[2], None, [True] * 3, True, 0, False)
    before, bits = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            flat = [p for part in GROWSTAGE.expert_mlp_backward(*args) for p in part]
            bits.append(flat)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*bits, strict=True))
    assert bits[0][-2].abs().max() == 0  # the expert without rows
    for ours, theirs in _both("expert_mlp_backward", *args):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("selector", SELECTORS)
def test_same_bits_every_time(device: str, selector: str) -> None:
    random = Random(1, device, torch.float32)
    x, logits = random.normal(500, 32), random.normal(500, 16)
    weights = _weights(random, [8, 40] * 8, 32, 24, True)
    leaves = [x, logits, *(w for group in weights for w in group)]
    for leaf in leaves:
        leaf.requires_grad_()

    def step() -> list[torch.Tensor]:
        selected, gate, counts = ops.route(
            logits, selector=selector, k=4, level=0.5, threshold=logits.detach().mean()
        )
        rows, position, offsets = ops.permute(x, selected, 16)
        y = ops.combine(ops.expert_mlp(rows, offsets, *weights), position, gate)
        return [y, counts, *torch.autograd.grad(y.square().sum(), leaves)]

    first = step()
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(step(), first, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("two", [True, False])
def test_a_whole_layer_compiles_into_one_graph(device: str, two: bool) -> None:
    random = Random(2, device, torch.float32)
    x, logits = random.normal(64, 8), random.normal(64, 4)
    weights = _weights(random, [3, 8, 5, 8], 8, 6, two)
    leaves = [x, logits, *(w for group in weights for w in group)]
    for leaf in leaves:
        leaf.requires_grad_()

    def layer(x, logits, weights):
        selected, gate, _ = ops.route(logits, selector="topk", k=2)
        rows, position, offsets = ops.permute(x, selected, 4)
        return ops.combine(ops.expert_mlp(rows, offsets, *weights), position, gate).tanh()

    want = layer(x, logits, weights)
    got = torch.compile(layer, fullgraph=True, backend="aot_eager")(x, logits, weights)
    torch.testing.assert_close(got, want)
    ours, theirs = (torch.autograd.grad(y.square().sum(), leaves) for y in (got, want))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_of_the_compiled_kernels(device: str) -> None:
    random = Random(4, device)
    x, logits = random.normal(6, 3).requires_grad_(), random.normal(6, 4).requires_grad_()
    for selector in range(len(SELECTORS)):
        args = (logits, None, None, logits.detach().mean(), selector, 3, 0.5, 0.6, 2)
        opcheck(GROWSTAGE.route.default, args)
    selected, gate, _ = ops.route(logits, selector="topk", k=2, capacity=2)
    opcheck(GROWSTAGE.permute.default, (x, selected, 4, 12))
    rows, position, offsets = ops.permute(x.detach(), selected, 4)
    opcheck(GROWSTAGE.combine.default, (rows.requires_grad_(), position, gate.detach()))
    weights = _weights(random, [2, 3, 1, 2], 3, 5, True)
    learning = random.flags(0.5, 12)
    opcheck(GROWSTAGE.expert_mlp.default, (rows, offsets, *weights, learning, 2, False))
    _, hidden = GROWSTAGE.expert_mlp(rows.detach(), offsets, *weights, None, 0, False)
    args = (random.normal(12, 5), rows.detach(), hidden, offsets, weights[0], weights[2], None)
    opcheck(GROWSTAGE.expert_mlp_backward.default, (*args, [True, False] * 2, True, 0, False))


@pytest.mark.skipif("cpu" not in DEVICES, reason="only the kernel of the CPU looks")
def test_fewer_rows_than_used_slots_are_refused() -> None:
    with pytest.raises(RuntimeError, match="2 rows, and more slots are used"):
        ops.permute(torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64), 2, rows=2)
    with pytest.raises(RuntimeError, match="one row for each slot"):
        ops.permute(torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64), 2, rows=4)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_infinite_rows_stay_what_they_are(device: str) -> None:
    random = Random(6, device, torch.float32)
    weights = _weights(random, [4, 4], 3, 3, True)
    rows, offsets = random.normal(6, 3), torch.tensor([0, 3, 6], device=device)
    rows[1, 0], rows[4, 1] = float("nan"), float("inf")
    for activation in range(len(ACTIVATIONS)):
        ours, theirs = (
            function(rows, offsets, *weights, None, activation, False)[0]
            for function in (GROWSTAGE.expert_mlp, reference("growstage::expert_mlp"))
        )
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        assert ours[1].isnan().all()
    learning = torch.tensor([1, 0, 1, 1, 0, 1], device=device).bool()
    _, hidden = GROWSTAGE.expert_mlp(rows, offsets, *weights, learning, 0, False)
    result = GROWSTAGE.expert_mlp_backward(
        random.normal(6, 3), rows, hidden, offsets, weights[0], weights[2], learning,
        [True, True], True, 0, False,
    )  # fmt: skip
    assert all(g.isfinite().all() for part in result[1:] for g in part)


@pytest.mark.parametrize("device", DEVICES)
def test_wrong_arguments_are_refused(device: str) -> None:
    x = torch.zeros(4, 3, device=device)
    slots = torch.zeros(4, 2, dtype=torch.int64, device=device)
    weights = ([torch.zeros(2, 3, device=device)], [torch.zeros(2, device=device)], [], [])
    good = torch.tensor([0, 4], device=device)
    wrong = {
        "must be int64": lambda: GROWSTAGE.permute(x, slots.int(), 2, 8),
        "takes x": lambda: GROWSTAGE.permute(x[:3], slots, 2, 8),
        "shaped like logits": lambda: GROWSTAGE.route(x, x[:2], None, None, 1, 1, 1.0, 1.0, 0),
        "out of range": lambda: GROWSTAGE.route(x, None, None, None, 9, 1, 1.0, 1.0, 0),
        "threshold of one value": lambda: GROWSTAGE.route(x, None, None, None, 4, 1, 1.0, 1.0, 0),
        "up must be": lambda: GROWSTAGE.expert_mlp(x[:, :2], good, *weights, None, 0, False),
        "one down": lambda: GROWSTAGE.expert_mlp(
            x, good, *weights[:2], weights[0] * 2, [], None, 0, False
        ),
        "type of rows": lambda: GROWSTAGE.expert_mlp(x.double(), good, *weights, None, 0, False),
        "position and weights": lambda: GROWSTAGE.combine(x, slots, x),
    }
    for message, call in wrong.items():
        with pytest.raises(RuntimeError, match=message):
            call()
    wide = torch.zeros(1, 1, dtype=torch.int64, device=device).expand(2**20, 2**11)
    with pytest.raises(RuntimeError, match="use smaller batches"):
        GROWSTAGE.permute(x[:1].expand(2**20, 3), wide, 2, 8)
    if device == "cpu":
        with pytest.raises(RuntimeError, match="offsets must rise"):
            GROWSTAGE.expert_mlp(x, good + 1, *weights, None, 0, False)
        with pytest.raises(RuntimeError, match="points past the 4 rows"):
            GROWSTAGE.combine(x, slots + 4, slots.float())
