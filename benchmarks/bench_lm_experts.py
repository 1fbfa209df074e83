"""Gated experts at shapes of language models, forward + backward: ours against transformers'.

Ours is what ``workers/moe/dispatch.py`` runs from slots: permute, expert_mlp, combine. Theirs are
the ``eager`` and ``grouped_mm`` experts of transformers on the same weights and the same routing.
Each round runs every path in turn, in one process and on one thread; medians of CPU time and of the
ratios that the rounds give. `--json` prints one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor
from transformers import OlmoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

import ops
from workers.moe.dispatch import FREE, dispatch
from workers.moe.experts.base import kernel_of
from workers.moe.experts.gated import GatedExpert
from workers.moe.selection import Selection, Slots

THEIRS = ("eager", "grouped_mm")
FROZEN = "ours, 3/4 frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """T tokens of d features, E experts of hidden width h, k of them for each token."""

    tokens: int
    features: int
    hidden: int
    experts: int
    k: int

    def flop(self) -> float:
        """Of forward + backward: three times three products per row."""
        return 3 * 3 * 2 * self.tokens * self.k * self.features * self.hidden

    def text(self) -> str:
        return (
            f"T {self.tokens}, d {self.features}, h {self.hidden}, E {self.experts}, top-{self.k}"
        )


SHAPES = {
    "olmoe-like": Shape(tokens=2048, features=192, hidden=128, experts=8, k=2),
    "few tokens": Shape(tokens=256, features=192, hidden=128, experts=8, k=2),
    "medium": Shape(tokens=2048, features=512, hidden=256, experts=16, k=4),
    "large": Shape(tokens=2048, features=1024, hidden=512, experts=32, k=4),
    "SmolLM2 upcycled": Shape(tokens=1024, features=576, hidden=1536, experts=4, k=2),
    "few tokens, wide": Shape(tokens=256, features=576, hidden=1536, experts=4, k=2),
}


class Case:
    """One shape: transformers' experts and ours with the same weights, tokens and routing."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        self.shape = shape
        config = OlmoeConfig(
            hidden_size=shape.features, intermediate_size=shape.hidden, num_experts=shape.experts
        )
        self.theirs = OlmoeExperts(config)
        form = GatedExpert.Config(width=shape.hidden)
        sizes = (shape.features, shape.features, shape.hidden)
        self.ours = [GatedExpert(form, *sizes) for _ in range(shape.experts)]
        with torch.no_grad():
            self.theirs.gate_up_proj.copy_(torch.stack([e.gate_up for e in self.ours]))
            self.theirs.down_proj.copy_(torch.stack([e.down for e in self.ours]))
        self.x = torch.randn(shape.tokens, shape.features).requires_grad_()
        self.probe = torch.randn(shape.tokens, shape.features)
        best, self.chosen = torch.randn(shape.tokens, shape.experts).topk(shape.k, dim=-1)
        self.weights = torch.softmax(best, -1).requires_grad_()
        self.counts = torch.bincount(self.chosen.flatten(), minlength=shape.experts)

    def mine(self) -> list[Tensor]:
        """Output, gradients of tokens and routing weights, then of the experts that learn."""
        slots = Slots(self.chosen, self.weights, self.counts)
        y = dispatch(kernel_of(self.ours), self.x, Selection(slots=slots), FREE)
        return self._with_gradients(y, [p for e in self.ours for p in e.parameters()])

    def other(self, implementation: str) -> list[Tensor]:
        """The same of transformers' experts, whose tensors hold all experts."""
        self.theirs.config._experts_implementation = implementation
        y = self.theirs(self.x, self.chosen, self.weights)
        return self._with_gradients(y, [self.theirs.gate_up_proj, self.theirs.down_proj])

    def _with_gradients(self, y: Tensor, parameters: list[Tensor]) -> list[Tensor]:
        leaves = [self.x, self.weights, *(p for p in parameters if p.requires_grad)]
        return [y.detach(), *torch.autograd.grad(y, leaves, self.probe)]

    def check(self) -> None:
        """Every path gives the same output and gradients, within the rounding of float32."""
        y, x, weights, *parameters = self.mine()
        mine = [y, x, weights, torch.stack(parameters[::2]), torch.stack(parameters[1::2])]
        for implementation in THEIRS:
            for a, b in zip(mine, self.other(implementation), strict=True):
                off = float((a - b).norm() / b.norm())
                assert off < 1e-5, (implementation, tuple(b.shape), off)

    def freeze_most(self, frozen: bool) -> None:
        """Freeze three of four experts of ours, or none."""
        for e, expert in enumerate(self.ours):
            expert.requires_grad_(not frozen or e % 4 == 0)


def timed(run: Callable[[], object], repeat: int) -> float:
    """Milliseconds of CPU time of one call, after one that is not counted."""
    run()
    began = time.process_time()
    for _ in range(repeat):
        run()
    return (time.process_time() - began) * 1e3 / repeat


def measure(shape: Shape, rounds: int) -> dict[str, object]:
    """Medians over rounds of every path, each checked against the others first."""
    case = Case(shape)
    case.check()
    samples: dict[str, list[float]] = {name: [] for name in ("ours", FROZEN, *THEIRS)}
    repeat = max(1, int(4e9 / shape.flop()))
    for _ in range(rounds):
        samples["ours"].append(timed(case.mine, repeat))
        for name in THEIRS:
            samples[name].append(timed(lambda name=name: case.other(name), repeat))
        case.freeze_most(True)
        samples[FROZEN].append(timed(case.mine, repeat))
        case.freeze_most(False)
    return summary(shape, samples)


def summary(shape: Shape, samples: dict[str, list[float]]) -> dict[str, object]:
    """Medians of times, and of the ratios that each round gives."""
    best = min(THEIRS, key=lambda name: statistics.median(samples[name]))

    def ratio(name: str) -> list[float]:
        return sorted(b / a for a, b in zip(samples[name], samples[best], strict=True))

    ratios = ratio("ours")
    return {
        "shape": shape.text(),
        "ms": {name: statistics.median(values) for name, values in samples.items()},
        "best_of_theirs": best,
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "frozen_ratio": statistics.median(ratio(FROZEN)),
        "gflops": shape.flop() / statistics.median(samples["ours"]) / 1e6,
    }


def main() -> None:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=list(SHAPES), help="default: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what importing transformers leaves behind is not walked in anybody's time
    print(ops.status().line(), f"torch {torch.__version__} transformers {transformers.__version__}")
    results: dict[str, dict[str, object]] = {}
    for name in args.shapes or SHAPES:
        results[name] = measure(SHAPES[name], args.rounds)
        print_shape(name, results[name])
    if args.json:
        print(json.dumps({"backend": ops.backend("cpu"), "shapes": results}))


def print_shape(name: str, result: dict[str, object]) -> None:
    """One block of lines; ratios above 1 = ours is faster than the best of theirs."""
    print(f"{name}: {result['shape']}")
    for path, ms in sorted(result["ms"].items(), key=lambda item: item[1]):  # type: ignore[attr-defined]
        print(f"  {path:18} {ms:9.2f} ms")
    low, high = result["ratio_range"]  # type: ignore[misc]
    print(f"  {result['best_of_theirs']} / ours: {result['ratio']:.2f} ({low:.2f} to {high:.2f})")
    frozen = f"{result['best_of_theirs']} / ours with 3/4 frozen: {result['frozen_ratio']:.2f}"
    # one tensor holds all of their experts, and requires_grad belongs to the tensor
    print(f"  {frozen} (theirs unfrozen: it cannot freeze single experts)")


if __name__ == "__main__":
    main()
