"""What routed layers are told around a training step, and what they tell about their forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from workers.moe.bank import ExpertBank
from workers.moe.domains import specialise
from workers.moe.domains.specialise import Counts
from workers.moe.telemetry import Total, own
from workers.moe.telemetry import usage as take_gate_weights

Layers = Mapping[str, ExpertBank]


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a training forward may know besides its input; ends with the step."""

    progress: float = 0.0
    """Share of the stage's training that is done, 0 to 1."""
    domains: tuple[str, ...] = ()
    """Every domain of the stream; empty where domains do not matter."""
    domain_B: Tensor | None = None  # noqa: N815
    """Place in ``domains`` of each sample's domain, int64 [B]."""


def routed_layers(model: nn.Module) -> dict[str, ExpertBank]:
    """The model's routed layers by module name."""
    return specialise.banks(model)


@contextmanager
def stepping(where: nn.Module | Layers, context: StepContext) -> Iterator[None]:
    """Tell routed layers about the step taken inside the block; nothing of it stays."""
    layers = (routed_layers(where) if isinstance(where, nn.Module) else where).values()
    if context.domain_B is not None:
        specialise.point(layers, context.domains, context.domain_B)
    specialise.set_progress(layers, context.progress)
    try:
        yield
    finally:
        for layer in layers:
            layer.guide.point(layer.guide.domains, None)
            layer.router.progress = 0.0


def drop_gradients(layers: Layers, anywhere: Callable[[Tensor], Tensor] | None = None) -> None:
    """After the backward pass: experts that no token may teach get no gradient at all."""
    specialise.drop_masked(layers.values(), anywhere)


def take_counts(model: nn.Module, add_up: Total = own) -> Counts:
    """Tokens that chose each expert, by layer and domain, since the last call."""
    return specialise.take_counts(model, add_up)


__all__ = [
    "Layers",
    "StepContext",
    "drop_gradients",
    "routed_layers",
    "stepping",
    "take_counts",
    "take_gate_weights",
]
