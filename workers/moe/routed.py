"""What trainers and evaluators say to a model's routed layers, and read from them.

A step's context is set for one forward and backward pass by ``stepping`` and ends with it.
Letters: B samples, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from workers.moe import telemetry
from workers.moe.bank import ExpertBank
from workers.moe.domains import specialise
from workers.moe.telemetry import Total, own

Layers = Mapping[str, ExpertBank]
"""Layer name -> routed layer."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a forward pass may know besides its input."""

    progress: float = 0.0
    """Share of the stage that is done, 0 to 1."""
    domains: tuple[str, ...] = ()
    domain_B: Tensor | None = None
    """int64 [B]: place of each sample's domain in ``domains``; None = unknown."""


@contextmanager
def stepping(layers: nn.Module | Layers, context: StepContext) -> Iterator[None]:
    """Give all routed layers this context inside the block; none afterwards."""
    banks = _banks(layers).values()
    specialise.point(banks, context.domains, context.domain_B)
    specialise.set_progress(banks, context.progress)
    try:
        yield
    finally:
        specialise.point(banks, context.domains, None)
        specialise.set_progress(banks, 0.0)


def routed_layers(model: nn.Module) -> dict[str, ExpertBank]:
    """The model's routed layers by module name."""
    return specialise.banks(model)


def take_losses(layers: nn.Module | Layers) -> dict[str, Tensor]:
    """``loss/<kind>/<layer>`` -> weighted scalar of the last training forward; empties them."""
    losses = {
        f"loss/balance/{name}": layer.take_auxiliary_loss()
        for name, layer in _banks(layers).items()
    }
    return {name: loss for name, loss in losses.items() if loss is not None}


def take_gate_weights(model: nn.Module, add_up: Total = own) -> dict[str, list[float]]:
    """Layer -> mean gate weight of each expert since the last call."""
    return telemetry.usage(model, add_up)


def take_counts(model: nn.Module, add_up: Total = own) -> specialise.Counts:
    """(layer -> domain -> tokens that chose each expert, domain -> tokens) since the last call."""
    return specialise.take_counts(model, add_up)


def drop_gradients(
    layers: nn.Module | Layers, anywhere: Callable[[Tensor], Tensor] | None = None
) -> None:
    """After the backward pass: experts that no token of the step may teach get no gradient.

    ``anywhere``: flags [E] of this replica -> flags that hold in any replica.
    """
    specialise.drop_masked(_banks(layers).values(), anywhere)


def _banks(layers: nn.Module | Layers) -> Layers:
    return specialise.banks(layers) if isinstance(layers, nn.Module) else layers
