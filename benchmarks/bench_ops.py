"""Routed expert layer, forward + backward: our ops against every way to do it in torch.

Rounds over all paths within one process, medians of single-thread CPU time (CUDA events on a
GPU) and ratios between them. `--json` prints one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

import ops

Step = Callable[[], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """T tokens of d features, E experts of hidden width h, k per token (all of them: dense)."""

    tokens: int
    features: int
    experts: int
    hidden: int
    k: int

    def flop(self) -> float:
        """Of forward + backward: three times two products per row and layer."""
        return 3 * 2 * 2 * self.tokens * self.k * self.features * self.hidden

    def text(self) -> str:
        return (
            f"T {self.tokens}, d {self.features}, E {self.experts}, h {self.hidden}, "
            f"{'all' if self.k == self.experts else f'top-{self.k}'}"
        )


CPU_SHAPES = {
    "A": Shape(tokens=4096, features=256, experts=8, hidden=512, k=2),
    "B": Shape(tokens=4096, features=256, experts=32, hidden=128, k=2),
    "C": Shape(tokens=4096, features=64, experts=4, hidden=256, k=4),
    "C1": Shape(tokens=512, features=64, experts=4, hidden=256, k=4),
}
GPU_SHAPES = {
    **{
        f"RL-E{e}-h{h}-T{t}": Shape(tokens=t, features=512, experts=e, hidden=h, k=2)
        for e in (2, 8)
        for h in (512, 2048)
        for t in (256, 2048, 8192)
    },
    "LM": Shape(tokens=32768, features=2048, experts=64, hidden=1024, k=8),
}


class Case:
    """Random data of one shape; every path computes the same layer from the same leaves."""

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype) -> None:
        self.shape, self.device = shape, device
        generator = torch.Generator().manual_seed(0)

        def leaf(*size: int, scale: float = 1.0) -> Tensor:
            values = torch.randn(*size, generator=generator) * scale
            return values.to(device, dtype).requires_grad_()

        d, h, e = shape.features, shape.hidden, shape.experts
        self.x, self.logits = leaf(shape.tokens, d), leaf(shape.tokens, e)
        self.up, self.down = leaf(e, h, d, scale=d**-0.5), leaf(e, d, h, scale=h**-0.5)
        self.up_bias, self.down_bias = leaf(e, h), leaf(e, d)
        self.probe = torch.randn(shape.tokens, d, generator=generator).to(device, dtype)
        self.lists = [
            [w.detach().clone().requires_grad_() for w in group]
            for group in (self.up, self.up_bias, self.down, self.down_bias)
        ]
        self.packed = [self.x, self.logits, self.up, self.up_bias, self.down, self.down_bias]
        self.separate = [self.x, self.logits, *(w for group in self.lists for w in group)]

    def routed(self) -> tuple[Tensor, Tensor]:
        """Chosen experts and their weights in plain torch."""
        best, chosen = self.logits.topk(self.shape.k, dim=-1)
        return chosen, torch.softmax(best, -1)

    def step(self, layer: Step, leaves: list[Tensor]) -> list[Tensor]:
        """Forward, and backward from a gradient that is given: no loss is part of the layer."""
        y = layer()
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        return [y, *torch.autograd.grad(y, wanted, self.probe, allow_unused=True)]


def ours(c: Case) -> Tensor:
    selector = "dense" if c.shape.k == c.shape.experts else "topk"
    selected, gate, _ = ops.route(c.logits, selector=selector, k=c.shape.k)
    rows, position, offsets = ops.permute(c.x, selected, c.shape.experts)
    return ops.combine(ops.expert_mlp(rows, offsets, *c.lists), position, gate)


def _expert(c: Case, e: int, x: Tensor) -> Tensor:
    up, up_bias, down, down_bias = c.lists
    hidden = torch.relu(functional.linear(x, up[e], up_bias[e]))
    return functional.linear(hidden, down[e], down_bias[e])


def naive_loop(c: Case) -> Tensor:
    chosen, gate = c.routed()
    y = torch.zeros_like(c.x)
    for e in range(c.shape.experts):
        token, slot = torch.where(chosen == e)
        y = y.index_add(0, token, _expert(c, e, c.x[token]) * gate[token, slot, None])
    return y


def _sorted(c: Case) -> tuple[Tensor, Tensor, Tensor]:
    chosen, gate = c.routed()
    order = torch.argsort(chosen.reshape(-1), stable=True)
    counts = torch.bincount(chosen.reshape(-1), minlength=c.shape.experts)
    return order, counts, gate.reshape(-1)[order, None]


def sort_loop(c: Case) -> Tensor:
    order, counts, gate = _sorted(c)
    token = order // c.shape.k
    parts = c.x[token].split(counts.tolist())
    rows = torch.cat([_expert(c, e, part) for e, part in enumerate(parts)])
    return torch.zeros_like(c.x).index_add(0, token, rows * gate)


def grouped_mm(c: Case) -> Tensor:
    order, counts, gate = _sorted(c)
    token, ends = order // c.shape.k, counts.cumsum(0).to(torch.int32)
    owner = torch.repeat_interleave(counts, output_size=len(order))
    hidden = functional.grouped_mm(c.x[token], c.up.transpose(1, 2), offs=ends)
    hidden = torch.relu(hidden + c.up_bias[owner])
    rows = functional.grouped_mm(hidden, c.down.transpose(1, 2), offs=ends) + c.down_bias[owner]
    return torch.zeros_like(c.x).index_add(0, token, rows * gate)


def padded_bmm(c: Case) -> Tensor:
    order, counts, gate = _sorted(c)
    token, most = order // c.shape.k, int(counts.max())
    owner = torch.repeat_interleave(counts, output_size=len(order))
    place = torch.arange(len(order), device=c.x.device) - (counts.cumsum(0) - counts)[owner]
    index = owner * most + place
    shape = (c.shape.experts * most, c.shape.features)
    padded = c.x.new_zeros(shape).index_copy(0, index, c.x[token])
    padded = padded.view(c.shape.experts, most, -1)
    hidden = torch.relu(torch.baddbmm(c.up_bias[:, None], padded, c.up.transpose(1, 2)))
    rows = torch.baddbmm(c.down_bias[:, None], hidden, c.down.transpose(1, 2))
    return torch.zeros_like(c.x).index_add(0, token, rows.flatten(0, 1)[index] * gate)


def _gates(c: Case) -> Tensor:
    chosen, gate = c.routed()
    return torch.zeros_like(c.logits).scatter(1, chosen, gate)


def dense_einsum(c: Case) -> Tensor:
    hidden = torch.relu(torch.einsum("td,ehd->teh", c.x, c.up) + c.up_bias)
    rows = torch.einsum("teh,edh->ted", hidden, c.down) + c.down_bias
    return (rows * _gates(c)[..., None]).sum(1)


def dense_folded(c: Case) -> Tensor:
    gates = _gates(c)
    hidden = torch.relu(functional.linear(c.x, c.up.flatten(0, 1), c.up_bias.flatten()))
    hidden = (hidden.unflatten(1, (c.shape.experts, -1)) * gates[..., None]).flatten(1)
    return torch.addmm(gates @ c.down_bias, hidden, c.down.transpose(0, 1).flatten(1).t())


PACKED = {
    "grouped_mm": grouped_mm,
    "padded_bmm": padded_bmm,
    "dense_einsum": dense_einsum,
    "dense_folded": dense_folded,
}
SEPARATE = {"naive_loop": naive_loop, "sort_loop": sort_loop}


def timed(run: Callable[[], object], device: str) -> float:
    """Milliseconds of one call: CPU time of the process, or device time between two events."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    began = time.process_time()
    run()
    return (time.process_time() - began) * 1e3


def product_rate(device: str, dtype: torch.dtype, rounds: int) -> Callable[[], float]:
    """A call gives FLOP per millisecond of a large square product: the floor's ceiling."""
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return lambda: 2 * n**3 / timed(lambda: a @ b, device)


def paths(c: Case, compiled: bool) -> dict[str, tuple[Step, list[Tensor]]]:
    """Every path as a layer without arguments and the leaves it computes gradients of."""
    found: dict[str, tuple[Step, list[Tensor]]] = {"ours": (lambda: ours(c), c.separate)}
    for table, leaves in ((PACKED, c.packed), (SEPARATE, c.separate)):
        for name, layer in table.items():
            found[name] = (partial(layer, c), leaves)
    if compiled:
        for name in ("dense_folded", "sort_loop"):
            step, leaves = found[name]
            found[f"compile({name})"] = (torch.compile(step), leaves)
    return found


def freeze_most(c: Case) -> list[Tensor]:
    """Freeze three of four experts; returns the leaves."""
    for group in c.lists:
        for e, weight in enumerate(group):
            weight.requires_grad_(e % 4 == 0)
    return c.separate


def measure(shape: Shape, args: argparse.Namespace) -> dict[str, object]:
    """Medians over rounds of every path, each checked against the naive loop first."""
    dtype = getattr(torch, args.dtype)
    c = Case(shape, args.device, dtype)
    table = paths(c, args.compile)
    want = c.step(lambda: naive_loop(c), c.separate)[0].detach()
    for name, (layer, leaves) in list(table.items()):
        try:
            got = c.step(layer, leaves)[0]
        except RuntimeError as error:  # some torch paths do not take every type or shape
            print(f"  {name}: not possible here: {str(error).splitlines()[0]}")
            del table[name]
            continue
        off = float((got - want).detach().norm() / want.norm())
        assert off < (1e-5 if dtype == torch.float32 else 3e-2), (name, off)
    samples: dict[str, list[float]] = {name: [] for name in [*table, "frozen"]}
    rate, rates = product_rate(args.device, dtype, args.rounds), []
    repeat = max(1, int(2e9 / shape.flop()))

    def sample(name: str, layer: Step, leaves: list[Tensor]) -> None:
        c.step(layer, leaves)  # untimed, so that nobody pays for what the path before left behind
        run = lambda: [c.step(layer, leaves) for _ in range(repeat)]  # noqa: E731
        samples[name].append(timed(run, args.device) / repeat)

    for _ in range(args.rounds):
        rates.append(rate())
        for name, (layer, leaves) in table.items():
            sample(name, layer, leaves)
        sample("frozen", lambda: ours(c), freeze_most(c))
        for leaf in c.separate:
            leaf.requires_grad_()
    return _summary(shape, samples, statistics.median(rates))


def _summary(shape: Shape, samples: dict[str, list[float]], rate: float) -> dict[str, object]:
    middle = {name: statistics.median(values) for name, values in samples.items()}
    frozen, mine = middle.pop("frozen"), middle["ours"]
    best = min((name for name in middle if name != "ours"), key=lambda name: middle[name])
    floor = shape.flop() / rate
    return {
        "shape": shape.text(),
        "ours_ms": mine,
        "best_torch_ms": middle[best],
        "best_torch": best,
        "floor_ms": floor,
        "floor_ratio": mine / floor,
        "frozen_ratio": frozen / mine,
        "spread": (max(samples["ours"]) - min(samples["ours"])) / mine,
        "all_ms": middle,
    }


def main() -> None:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--shapes", nargs="*", help="names; default: all of the device")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")
    parser.add_argument("--tf32", action="store_true", help="GPU: tensor cores for float32")
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=["uniform", "zipf", "one", "frozen 0.5", "frozen 0.9", "ragged"],
        help="GPU only; default: all",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(ops.status().line(), f"torch {torch.__version__}")
    if args.device == "cuda":
        from bench_ops_cuda import run

        run(args)
        return
    shapes = CPU_SHAPES
    results: dict[str, dict[str, object]] = {}
    for name in args.shapes or shapes:
        results[name] = measure(shapes[name], args)
        print_shape(name, results[name])
    if args.json:
        print(json.dumps({"backend": ops.backend(args.device), "shapes": results}))


def print_shape(name: str, result: dict[str, object]) -> None:
    """One block of lines, fastest path first."""
    print(f"{name}: {result['shape']}")
    for path, ms in sorted(result["all_ms"].items(), key=lambda item: item[1]):  # type: ignore[attr-defined]
        print(f"  {path:22} {ms:9.2f} ms   {ms / result['floor_ms']:6.2f} x floor")
    print(f"  frozen 3/4: {result['frozen_ratio']:.2f} of unfrozen")


if __name__ == "__main__":
    main()
