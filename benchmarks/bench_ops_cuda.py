"""Routed expert layer on a GPU: our ops against torch's grouped product, loops of cuBLAS products,
padded and dense products and a Triton grouped product. Run it through ``bench_ops.py``.

Every path computes the same layer from the same leaves and is checked before it is timed: device
time between two events, medians over rounds in which all paths take turns. The floor is the larger
of FLOP at the rate of a large product and bytes at the rate of a copy, measured in the same run;
with frozen experts it still counts all gradients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from bench_ops import GPU_SHAPES, PACKED, SEPARATE, Case, Shape, naive_loop, ours, timed
from torch import Tensor

import ops

Layer = Callable[[Case], Tensor]
TRITON_ROWS = (16, 32, 64, 128)
ROUTINGS = ("uniform", "zipf", "one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What this device reaches: FLOP and bytes per millisecond."""

    flop: float
    bytes: float

    def floor(self, shape: Shape, size: int, parts: int) -> float:
        """Least milliseconds of ``parts`` thirds of a step (1 = forward), ``size`` bytes a value.

        The bytes are those of a layer whose gather and activation are fused into its products.
        """
        rows = shape.tokens * shape.k * (3 * shape.features + 2 * shape.hidden)
        weights = 2 * shape.experts * shape.features * shape.hidden
        moved = (rows + shape.tokens * shape.features + weights) * size
        return parts * max(shape.flop() / 3 / self.flop, moved / self.bytes)


def ceilings(device: str, dtype: torch.dtype, side: int, rounds: int) -> Ceilings:
    """A square product and a copy of 256 times its side in rows."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    big = torch.randn(side, 4 * side, device=device).to(dtype)
    other = torch.empty_like(big)
    product = statistics.median(timed(lambda: a @ b, device) for _ in range(rounds))
    copy = statistics.median(timed(lambda: other.copy_(big), device) for _ in range(rounds))
    return Ceilings(flop=2 * side**3 / product, bytes=2 * big.nbytes / copy)


def skew(case: Case, routing: str) -> None:
    """Make the choice uneven: expert e wanted as 1 / (e + 1), or one expert by every token."""
    with torch.no_grad():
        if routing == "zipf":
            ranks = torch.arange(1, case.shape.experts + 1, device=case.logits.device)
            case.logits -= ranks.log().to(case.logits.dtype)
        elif routing == "one":
            case.logits[:, 0] += 100


def ragged(case: Case) -> None:
    """Widths from an eighth of ``hidden`` to ``hidden`` in turn, for the paths that allow it."""
    share = [(e % 8 + 1) / 8 for e in range(case.shape.experts)]
    widths = [max(1, int(case.shape.hidden * part)) for part in share]
    up, up_bias, down, _ = case.lists
    for e, width in enumerate(widths):
        for group, cut in ((up, up[e][:width]), (up_bias, up_bias[e][:width])):
            group[e] = cut.detach().clone().requires_grad_()
        down[e] = down[e][:, :width].detach().clone().requires_grad_()
    case.separate = [case.x, case.logits, *(w for group in case.lists for w in group)]
    case.shape = replace(case.shape, hidden=sum(widths) // len(widths))  # for the floor


def freeze(case: Case, share: float) -> None:
    """Freeze that share of the experts, evenly spread."""
    for group in case.lists:
        for e, weight in enumerate(group):
            weight.requires_grad_(int((e + 1) * share) == int(e * share))


def loop_with_known_counts(counts: list[int]) -> Layer:
    """A loop of plain products where the host knows the counts: the loop at its best."""

    def layer(c: Case) -> Tensor:
        chosen, gate = c.routed()
        order = torch.argsort(chosen.reshape(-1), stable=True)
        token = order // c.shape.k
        up, up_bias, down, down_bias = c.lists
        parts = []
        for e, part in enumerate(c.x[token].split(counts)):
            hidden = torch.relu(torch.addmm(up_bias[e], part, up[e].t()))
            parts.append(torch.addmm(down_bias[e], hidden, down[e].t()))
        rows = torch.cat(parts) * gate.reshape(-1)[order, None]
        return torch.zeros_like(c.x).index_add(0, token, rows)

    return layer


def triton_path(rows: int) -> Layer:
    """Our routing around two Triton grouped products with tiles of that many rows."""
    from triton_grouped import grouped

    def layer(c: Case) -> Tensor:
        selected, gate, counts = ops.route(c.logits, selector="topk", k=c.shape.k)
        x, position, offsets = ops.permute(c.x, selected, c.shape.experts)
        owner = torch.repeat_interleave(counts, output_size=len(x))
        hidden = torch.relu(grouped(x, c.up, offsets, rows) + c.up_bias[owner])
        y = grouped(hidden, c.down, offsets, rows) + c.down_bias[owner]
        return ops.combine(y, position, gate)

    return layer


def layers(case: Case, with_triton: bool, equal_widths: bool) -> dict[str, tuple[Layer, bool]]:
    """Every path by name, and whether its weights are packed into one tensor."""
    counts = torch.bincount(case.routed()[0].reshape(-1), minlength=case.shape.experts).tolist()
    known = loop_with_known_counts(counts)
    found = {"ours": (ours, False), "loop, counts known": (known, False)}
    found["loop, host waits"] = (SEPARATE["sort_loop"], False)
    if not equal_widths:
        return found
    found |= {name: (PACKED[name], True) for name in ("grouped_mm", "padded_bmm", "dense_folded")}
    if with_triton:
        found |= {f"triton, {rows} rows": (triton_path(rows), True) for rows in TRITON_ROWS}
    return found


def phase(case: Case, layer: Layer, packed: bool, what: str) -> Callable[[], object]:
    """One call of ``forward``, ``rows`` (forward and gradient of x and logits) or ``all``."""
    if what == "forward":
        return torch.no_grad()(partial(layer, case))
    leaves = case.packed if packed else case.separate
    leaves = leaves[:2] if what == "rows" else leaves
    return partial(case.step, partial(layer, case), leaves)


def replayed(run: Callable[[], object]) -> Callable[[], object] | None:
    """The same work as one CUDA graph; None where it cannot be captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:
        print(f"  no CUDA graph: {str(error).splitlines()[0]}")
        return None
    return graph.replay


def launches(run: Callable[[], object]) -> int:
    """Kernels that one call launches, copies and fills of memory included."""
    from torch.profiler import DeviceType, ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events())


def host_waits(run: Callable[[], object]) -> int:
    """How often one call waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def checked(case: Case, table: dict[str, tuple[Layer, bool]], tolerance: float) -> list[str]:
    """Names of the paths that work here; a path that computes something else is an error."""
    want = naive_loop(case).detach()
    good = []
    for name, (layer, packed) in table.items():
        try:
            got = case.step(partial(layer, case), case.packed if packed else case.separate)
        except RuntimeError as error:  # some torch paths do not take every type or shape
            print(f"  {name}: not possible here: {str(error).splitlines()[0]}")
            continue
        off = float((got[0].detach() - want).norm() / want.norm())
        assert off < tolerance, (name, off)
        good.append(name)
    return good


def compare(case: Case, top: Ceilings, args: argparse.Namespace, equal_widths: bool) -> dict:
    """Milliseconds of every path and phase, with ratio to the floor, launches and host waits."""
    device, dtype = args.device, case.x.dtype
    exact = dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    table = layers(case, device == "cuda", equal_widths)
    names = checked(case, table, 1e-5 if exact else 3e-2)
    trained = [w for w in (*case.packed[2:], *case.separate[2:]) if w.requires_grad]
    result: dict[str, dict] = {}
    for what, parts in (("forward", 1), ("rows", 2), ("all", 3)):
        # a Python autograd.Function cannot see which gradients are asked for
        for weight in trained:
            weight.requires_grad_(what == "all")
        calls = {name: phase(case, *table[name], what) for name in names}
        if device == "cuda" and (graph := replayed(calls["ours"])):
            calls["ours, graph"] = graph
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(args.rounds):
            for name, call in calls.items():
                samples[name].append(timed(call, device))
        floor = top.floor(case.shape, case.x.element_size(), parts)
        for name, values in samples.items():
            ms = statistics.median(values)
            cell = {"ms": ms, "floor_ratio": ms / floor}
            cell["tflops"] = case.shape.flop() * parts / 3 / ms / 1e9
            cell["spread"] = (max(values) - min(values)) / ms
            if device == "cuda" and "graph" not in name:
                cell |= {"launches": launches(calls[name]), "waits": host_waits(calls[name])}
            result.setdefault(name, {})[what] = cell
    return result


def routing_alone(case: Case, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of choosing and sorting, and of adding up, without any expert."""
    e, k, wide = case.shape.experts, case.shape.k, case.shape.features

    def by_torch() -> object:
        chosen, gate = case.routed()
        flat = chosen.reshape(-1)
        return torch.argsort(flat, stable=True), torch.bincount(flat, minlength=e).cumsum(0), gate

    selected, gate, _ = ops.route(case.logits.detach(), selector="topk", k=k)
    rows, position, _ = ops.permute(case.x.detach(), selected, e)
    token = torch.arange(len(selected), device=rows.device).repeat_interleave(k)
    in_order = torch.empty_like(token).scatter(0, position.reshape(-1), token)
    weights = torch.empty_like(gate.reshape(-1)).scatter(0, position.reshape(-1), gate.reshape(-1))

    def choose() -> object:
        chosen, _, _ = ops.route(case.logits, selector="topk", k=k)
        return ops.permute(case.x[:, :1].contiguous(), chosen, e)

    empty = torch.zeros(len(selected), wide, device=rows.device, dtype=rows.dtype)
    calls = {
        "choose and sort, ours": choose,
        "choose and sort, torch": by_torch,
        "add up, ours": lambda: ops.combine(rows, position, gate),
        "add up, index_add": lambda: empty.index_add(0, in_order, rows * weights[:, None]),
    }
    with torch.no_grad():
        for call in calls.values():
            call()
        return {
            name: statistics.median(timed(call, args.device) for _ in range(args.rounds))
            for name, call in calls.items()
        }


def show(title: str, result: dict[str, dict]) -> None:
    """One block of lines, fastest whole step first."""
    print(title)
    for name, phases in sorted(result.items(), key=lambda item: item[1]["all"]["ms"]):
        cells = [
            f"{p} {c['ms'] * 1e3:9.1f} us {c['floor_ratio']:6.2f} x" for p, c in phases.items()
        ]
        last = phases["all"]
        extra = f"{last['tflops']:7.1f} TFLOP/s"
        if "launches" in last:
            extra += f"  {last['launches']:4d} launches {last['waits']:3d} waits"
        print(f"  {name:20} {'  '.join(cells)}  {extra}")


def variants(shape: Shape, args: argparse.Namespace) -> dict[str, Callable[[Case], None]]:
    """What is done to a case before it is measured, by name."""
    found: dict[str, Callable[[Case], None]] = {
        routing: partial(skew, routing=routing) for routing in ROUTINGS
    }
    for share in (0.5, 0.9):
        found[f"frozen {share}"] = partial(freeze, share=share)
    found["ragged"] = ragged
    return {name: change for name, change in found.items() if name in (args.variants or found)}


def run(args: argparse.Namespace) -> dict:
    """All shapes and variants of one element type; the module's docstring says what is measured."""
    dtype = getattr(torch, args.dtype)
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    top = ceilings(args.device, dtype, 8192 if args.device == "cuda" else 512, args.rounds)
    print(f"ceilings: {top.flop / 1e9:.1f} TFLOP/s, {top.bytes / 1e9:.2f} TB/s")
    results: dict[str, dict] = {"ceilings": {"tflops": top.flop / 1e9, "tbs": top.bytes / 1e9}}
    for name in args.shapes or GPU_SHAPES:
        for variant, change in variants(GPU_SHAPES[name], args).items():
            case = Case(GPU_SHAPES[name], args.device, dtype)
            change(case)
            # packed weights know neither frozen experts nor widths
            result = compare(case, top, args, equal_widths=variant in ROUTINGS)
            show(f"{name}, {variant}: {case.shape.text()}", result)
            results[f"{name}, {variant}"] = result
        results[f"{name}, routing"] = routing_alone(case, args)
        for what, ms in results[f"{name}, routing"].items():
            print(f"  {what:24} {ms * 1e3:9.1f} us")
    if args.json:
        print(json.dumps({"backend": ops.backend(args.device), "results": results}))
    return results
