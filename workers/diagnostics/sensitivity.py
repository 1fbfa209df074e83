"""How a model's loss answers to what its routed layers read, and to their routers.

Letters: N samples, P parameters, D inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workers.diagnostics.base import Diagnostic, Figures, Probe

if TYPE_CHECKING:
    from torch import Tensor, nn

STEP = 1e-2
"""Step of the differences that curvature is taken by, in standard deviations of what is read."""


class GateGradientVariance(Diagnostic):
    """Variance over samples of the gradient of each layer's routers: trace of the covariance.

    ``mean_n |g_n|^2 - |mean_n g_n|^2``, g_n the gradient [P] of the loss on sample n alone, in
    evaluation mode. Samples pass one by one, so a selector that looks at other tokens of a batch
    sees those of the sample only.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings of the sample."""

        kind: str = "gate_gradient_variance"
        samples: int = 64
        """Samples of the probe at most."""

        def __post_init__(self) -> None:
            if self.samples < 2:
                raise ValueError(f"samples must be at least 2, got {self.samples}")

    unit = "squared gradient of the loss, from 0"
    source = "DynaMoE (arXiv 2603.01697), theorem 2"
    scope = "model"
    cheap = False
    needs_gradients = True

    config: Config

    def figures(self, probe: Probe) -> Figures:
        import torch

        routers = _routers(probe.model)
        loss, x, y = probe.loss, probe.inputs[: self.config.samples], probe.targets
        if not routers or loss is None or y is None:
            return {}
        parameters = [p for several in routers.values() for p in several]
        square = dict.fromkeys(routers, 0.0)
        total: list[Tensor] = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
        for n in range(len(x)):
            with torch.enable_grad():
                value = loss(probe.model(x[n : n + 1]), y[n : n + 1])
                found = torch.autograd.grad(value, parameters, allow_unused=True)
            of = iter(zip(found, total, strict=True))
            for name, several in routers.items():
                for _ in several:
                    gradient, added = next(of)
                    if gradient is not None:
                        added += gradient.double()
                        square[name] += float(gradient.double().square().sum())
        of_all = iter(total)
        figures = {}
        for name, several in routers.items():
            mean = sum(float((next(of_all) / len(x)).square().sum()) for _ in several)
            figures[name] = max(0.0, square[name] / len(x) - mean)
        return figures


class Curvature(Diagnostic):
    """Size of the loss's second derivative with respect to what each routed layer reads.

    ``sqrt(mean_n |H_n|_F^2)``, H_n = d2 loss_n / dh_n^2 [D, D], by Hutchinson's estimator
    ``E|H v|^2 = |H|_F^2`` with random signs v; H v from central differences of gradients, so an
    estimate. ``<layer>/gradient``: ``mean_n |d loss_n / dh_n|``, the cheap stand-in.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Diagnostic.Config):
        """Settings of the estimator."""

        kind: str = "curvature"
        draws: int = 4
        """Random directions for each layer."""

        def __post_init__(self) -> None:
            if self.draws < 1:
                raise ValueError(f"draws must be at least 1, got {self.draws}")

    unit = "loss by squared unit of the inputs (gradient: by unit)"
    source = "DynaMoE (arXiv 2603.01697), propositions 2 and 3; Hutchinson 1990"
    scope = "model"
    cheap = False
    needs_gradients = True

    config: Config

    def figures(self, probe: Probe) -> Figures:
        figures: Figures = {}
        for name, h in layer_inputs(probe).items():
            figures[name] = curvature(probe, name, h, self.config.draws)
            figures[f"{name}/gradient"] = float(input_gradients(probe, name).norm(dim=1).mean())
        return figures


def layer_inputs(probe: Probe) -> dict[str, Tensor]:
    """What each routed layer reads of the probe's inputs, [N, ..., D]; none where no loss is
    known, as in lanes that act."""
    import torch

    from workers.moe.routed import routed_layers

    if probe.loss is None or probe.targets is None:
        return {}
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda part, args: found.update({name: args[0].detach()})

    parts = routed_layers(probe.model).items()
    handles = [part.register_forward_pre_hook(keep(name)) for name, part in parts]
    try:
        with torch.no_grad():
            probe.model(probe.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def input_gradients(probe: Probe, layer: str, shift: Tensor | None = None) -> Tensor:
    """Gradient of each sample's loss with respect to what a layer reads, [N, D].

    Positions of a sample lie behind one another; ``shift`` [N, ..., D] is added to what is read.
    The loss must be a mean over samples that do not see each other.
    """
    import torch

    moved: list[Tensor] = []

    def move(part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        start = torch.zeros_like(args[0]) if shift is None else shift
        moved.append(start.detach().clone().requires_grad_())
        return (args[0] + moved[0], *args[1:])

    handle = probe.model.get_submodule(layer).register_forward_pre_hook(move)
    try:
        with torch.enable_grad():
            assert probe.loss is not None
            assert probe.targets is not None
            value = probe.loss(probe.model(probe.inputs), probe.targets)
            (gradient,) = torch.autograd.grad(value, moved[:1])
    finally:
        handle.remove()
    return gradient.flatten(1).double() * len(gradient)


def curvature(probe: Probe, layer: str, h: Tensor, draws: int) -> float:
    """See ``Curvature``; ``h``: what the layer reads. The same signs at each call."""
    import torch

    generator = torch.Generator().manual_seed(0)
    step = STEP * float(h.std()) or STEP
    total = 0.0
    for _ in range(draws):
        signs = torch.randint(0, 2, h.shape, generator=generator).to(h) * 2 - 1
        up, down = (input_gradients(probe, layer, s * step * signs) for s in (1.0, -1.0))
        total += float(((up - down) / (2 * step)).square().sum(1).mean())
    return (total / draws) ** 0.5


def _routers(model: nn.Module) -> Mapping[str, list[Any]]:
    """Layer of several experts -> parameters of its routers that learn."""
    from workers.moe.routed import routed_layers

    found = {
        name: [p for r in layer.routers for p in r.trainable_parameters() if p.requires_grad]
        for name, layer in routed_layers(model).items()
        if layer.live > 1
    }
    return {name: parameters for name, parameters in found.items() if parameters}
