"""What an interval of a supervised lane measured: losses, gradient norms, and signals from them.

Signals are what growth triggers look at. All are the same on every worker and in every rerun.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from workers.inference.steering import steerable, steered, without

NORM_STEPS = 4
"""Steps of an interval, evenly spread, at which the gradient norm is measured."""

SIGNALS: Mapping[str, str] = {
    "loss": "mean loss over the interval's steps, auxiliary losses included (the objective's unit)",
    "loss_slope": "least-squares slope of the loss over the interval's steps (loss per step)",
    "gradient_norm": (
        "global L2 norm of the gradient before clipping, mean over the steps at which it is "
        f"measured: all where training.clip is set, else {NORM_STEPS} spread over the interval"
    ),
    "train_score": (
        "score (0 to 1) at the interval's end on a seeded sample of the stage's training part"
    ),
    "routing_flips": (
        "share (0 to 1) of that sample's tokens whose heaviest expert became another one within "
        "the interval, in the routed layer where it is largest; 0 without routed layers"
    ),
}
"""Signal -> what it is, and its unit."""

ON_REQUEST: Mapping[str, str] = {
    "gradient_coherence": (
        "mean cosine (-1 to 1) between the gradients of the steps at which norms are measured: "
        "near 0 where gradients are noise, higher where the loss can fall by going on; none in an "
        "interval with one such step"
    ),
    "validation_score": (
        "score (0 to 1) at the interval's end on a seeded sample of the stage's validation part"
    ),
    "newest_gain": (
        "as newest_gain/<layer> for each routed layer of two experts or more: validation_score "
        "less the same (-1 to 1) with the layer's newest expert switched off"
    ),
}
"""Signals that cost a pass or memory of their own: measured where a policy watches them."""

VALIDATING = ("validation_score", "newest_gain")
"""Those that need a validation part."""


class Interval:
    """The figures of an interval's steps; they stay on the device until they are read."""

    def __init__(self, first: int, steps: int, always: bool, coherence: bool = False) -> None:
        """``first``: number of the interval's first step; ``always``: measure every norm;
        ``coherence``: the gradients' directions too."""
        self.coherence = Coherence() if coherence else None
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []
        self.terms: defaultdict[str, list[Tensor]] = defaultdict(list)
        """Auxiliary loss -> its value at each pass, weighted by the share of the step's samples."""
        count = min(NORM_STEPS, steps)
        spread = {first + (steps * (k + 1)) // count - 1 for k in range(count)}
        self.measured = set(range(first, first + steps)) if always else spread
        """Steps at which the gradient norm is measured."""

    def metrics(self) -> dict[str, float]:
        """Mean loss and gradient norm."""
        return {
            "loss": torch.stack(self.losses).mean().item(),
            "gradient_norm": torch.stack(self.norms).mean().item(),
        }

    def signals(
        self, metrics: Mapping[str, float], train_score: float, routing_flips: float
    ) -> dict[str, float]:
        """Every entry of SIGNALS; ``metrics``: what the method of that name gave."""
        return {
            **metrics,
            "loss_slope": slope(torch.stack(self.losses)),
            "train_score": train_score,
            "routing_flips": routing_flips,
        }

    def measure(self, model: nn.Module, norm: Tensor) -> None:
        """Take in the gradients of a step; ``norm``: their global norm before clipping."""
        self.norms.append(norm)
        if self.coherence is not None:
            self.coherence.add(model)

    def requested(self) -> dict[str, float]:
        """Signals of the steps that were asked for."""
        value = None if self.coherence is None else self.coherence.value()
        return {} if value is None else {"gradient_coherence": value}

    def sums(self) -> dict[str, Tensor]:
        """Auxiliary loss -> its sum over the steps, float64, of this worker's shares."""
        return {name: torch.stack(values).double().sum() for name, values in self.terms.items()}


class Coherence:
    """Mean cosine between gradients, as ``(|sum_k u_k|^2 - n) / (n (n - 1))`` of their directions
    ``u_k = g_k / |g_k|``: one copy of the gradient is kept, however many steps there are."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.count = 0

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """One more step; where a parameter has no gradient, it is 0. A step whose gradient is 0
        everywhere has no direction and is left out."""
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        norm = torch.stack([g.double().square().sum() for g in found.values()]).sum().sqrt()
        if not float(norm):
            return
        for name, gradient in found.items():
            unit = gradient.double() / norm
            self.total[name] = self.total[name] + unit if name in self.total else unit
        self.count += 1

    def value(self) -> float | None:
        """The mean over pairs; None where there is none."""
        n = self.count
        if n < 2:
            return None
        square = torch.stack([total.square().sum() for total in self.total.values()]).sum()
        return (float(square) - n) / (n * (n - 1))


def newest_gain(model: nn.Module, score: float, again: Callable[[], float]) -> dict[str, float]:
    """Of each routed layer: ``score`` less that of the model without the layer's newest expert.

    ``again``: measures the score of the model as it is when it is called.
    """
    layers = steerable(model)
    gains = {}
    for name, layer in layers.items():
        device = next(layer.parameters()).device
        newest_E = torch.arange(layer.live, device=device) == layer.live - 1
        with steered(layers, {name: without(newest_E)}):
            gains[f"newest_gain/{name}"] = score - again()
    return gains


def slope(values: Tensor) -> float:
    """Least-squares slope of values [n] over 0, 1, ..., n - 1; 0 for a single one."""
    y = values.double().cpu()
    x = torch.arange(len(y), dtype=torch.float64)
    x = x - x.mean()
    spread = x.square().sum()
    return float((x * (y - y.mean())).sum() / spread) if len(y) > 1 else 0.0
