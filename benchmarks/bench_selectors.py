"""What selectors cost: a routed layer, forward + backward, as a ratio to top-k of the same mean k.

Selectors whose number of experts varies are set so that their mean over the measured tokens is
top-k's. Second part: experts of different widths against equal ones, time per FLOP. Interleaved
rounds in one process, medians of each round's ratio of CPU time. ``--json`` prints one JSON object
as the last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from bench_ops import CPU_SHAPES, Shape
from torch import Tensor

import ops
from workers.moe.experts import Bottleneck
from workers.moe.layers import MoELayer
from workers.moe.routed import observing
from workers.moe.routers import ROUTERS, RouterContext
from workers.moe.selectors import SELECTORS

LEVELS: dict[str, tuple[str, int]] = {
    "top_p": ("p", 1),
    "percentile_token": ("level", -1),
    "percentile_batch": ("level", -1),
}
"""Selector -> the setting that decides its mean k, and whether k rises (1) or falls with it."""
SHAPES = {
    **CPU_SHAPES,
    "C/2": replace(CPU_SHAPES["C"], k=2),
    "C1/2": replace(CPU_SHAPES["C1"], k=2),
}


def layer_of(shape: Shape, kind: str, settings: dict[str, Any], router: str = "linear") -> MoELayer:
    """A layer in training with the shape's experts; every kind has the same parameters."""
    config = MoELayer.Config(
        router=ROUTERS[router].Config(),
        selector=SELECTORS[kind].Config(**settings),
        expert=Bottleneck.Config(width=shape.hidden),
    )
    d = shape.features
    return MoELayer(config, d, d, shape.experts, None, seed=0).train()


@torch.no_grad()
def mean_k(layer: MoELayer, x_TD: Tensor) -> float:
    """Experts of a token, on average."""
    torch.manual_seed(0)
    selection = layer.selector.select(layer.router(x_TD, RouterContext()), None, True)
    return float(selection.chosen_TE.sum(1).double().mean())


def tuned(shape: Shape, kind: str, x_TD: Tensor) -> dict[str, Any]:
    """The settings under which the selector's mean k is nearest to the shape's."""
    name, sign = LEVELS[kind]
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        above = mean_k(layer_of(shape, kind, {name: middle}), x_TD) > shape.k
        low, high = (low, middle) if above == (sign > 0) else (middle, high)
    return {name: low if sign > 0 else high}


def variants(shape: Shape, x_TD: Tensor) -> dict[str, MoELayer]:
    """Layers by name; ``topk`` is what the others are compared with."""
    found = {"topk": layer_of(shape, "topk", {"k": shape.k})}
    for kind in LEVELS:
        found[kind] = layer_of(shape, kind, tuned(shape, kind, x_TD))
    for kind in ("loss_free", "expert_choice"):
        found[kind] = layer_of(shape, kind, {"k": shape.k})
    found["noisy + topk"] = layer_of(shape, "topk", {"k": shape.k}, "noisy")
    if shape.k == 2:
        found["gshard"] = layer_of(shape, "gshard", {"capacity": 8.0, "second": "all"})
        found["topk 1"] = layer_of(shape, "topk", {"k": 1, "weights": "full"})
        found["switch"] = layer_of(shape, "switch", {"capacity": 8.0})
    return found


BASE = {"switch": "topk 1"}
"""What a variant is compared with, where it is not ``topk``."""


def stepper(layer: MoELayer, x_TD: Tensor, probe_TD: Tensor) -> Callable[[], None]:
    """Forward, and backward from a given gradient."""

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        x_TD.grad = None
        layer(x_TD).backward(probe_TD)

    return step


def timed(step: Callable[[], None], repeat: int) -> float:
    """Milliseconds of CPU time of one step."""
    step()  # untimed, so that nobody pays for what the one before left behind
    began = time.process_time()
    for _ in range(repeat):
        step()
    return (time.process_time() - began) * 1e3 / repeat


def rounds(
    steps: dict[str, Callable[[], None]], shape: Shape, count: int
) -> dict[str, list[float]]:
    """Milliseconds of each step in each round."""
    repeat = max(1, int(1e9 / shape.flop()))
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(count):
        for name, step in steps.items():
            found[name].append(timed(step, repeat))
    return found


def ratios(times: dict[str, list[float]], scale: dict[str, float]) -> dict[str, dict[str, float]]:
    """Median and range over rounds of time to that of the base, each divided by its ``scale``."""
    found = {}
    for name in times:
        base = BASE.get(name, next(iter(times)))
        each = sorted(
            (a / scale[name]) / (b / scale[base])
            for a, b in zip(times[name], times[base], strict=True)
        )
        found[name] = {
            "ratio": statistics.median(each),
            "low": each[len(each) // 4],
            "high": each[-1 - len(each) // 4],
            "ms": statistics.median(times[name]),
        }
    return found


def data(shape: Shape) -> tuple[Tensor, Tensor]:
    """Inputs and the gradient of the outputs."""
    generator = torch.Generator().manual_seed(0)
    x_TD, probe_TD = (
        torch.randn(shape.tokens, shape.features, generator=generator) for _ in range(2)
    )
    return x_TD.requires_grad_(), probe_TD


def selectors(shape: Shape, count: int) -> dict[str, dict[str, float]]:
    """Every selector against top-k."""
    x_TD, probe_TD = data(shape)
    layers = variants(shape, x_TD)
    steps = {name: stepper(layer, x_TD, probe_TD) for name, layer in layers.items()}
    found = ratios(rounds(steps, shape, count), dict.fromkeys(steps, 1.0))
    for name, layer in layers.items():
        found[name]["mean_k"] = mean_k(layer, x_TD)
    return found


def widths(shape: Shape, count: int) -> dict[str, dict[str, float]]:
    """Experts of half and of one and a half times the width by turns, per FLOP."""
    x_TD, probe_TD = data(shape)
    h, d = shape.hidden, shape.features
    layers, flop = {}, {}
    for name, sizes in {"equal": (h, h), "ragged": (h // 2, h + h // 2)}.items():
        config = MoELayer.Config(
            selector=SELECTORS["topk"].Config(k=shape.k),
            expert=Bottleneck.Config(width=sizes[0]),
            more_experts=(Bottleneck.Config(width=sizes[1]),),
        )
        layer = MoELayer(config, d, d, shape.experts, None, seed=0).train()
        with observing(layer, lambda routed: routed.chosen) as seen:
            layer(x_TD)
        rows = seen[""][0].sum(0).tolist()
        flop[name] = float(
            sum(n * w for n, w in zip(rows, layer.layer_shape().widths, strict=True))
        )
        layers[name] = stepper(layer, x_TD, probe_TD)
    return ratios(rounds(layers, shape, count), flop)


def main() -> None:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(ops.status().line(), f"torch {torch.__version__}, {args.threads} thread(s)")
    results: dict[str, Any] = {}
    for name in args.shapes:
        shape = SHAPES[name]
        found = {"selectors": selectors(shape, args.rounds), "widths": widths(shape, args.rounds)}
        results[name] = found
        print(f"{name}: {shape.text()}")
        for part in found.values():
            for kind, row in part.items():
                mean = f"   mean k {row['mean_k']:.2f}" if "mean_k" in row else ""
                spread = f"({row['low']:.3f} to {row['high']:.3f})"
                print(f"  {kind:18} {row['ratio']:.3f} {spread}  {row['ms']:8.2f} ms{mean}")
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
