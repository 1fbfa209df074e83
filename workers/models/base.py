"""What every entry of MODELS is: a module that says what it can do.

Checks ask for a capability and never for a model's name, so a class from outside
(``module:Class``) is used wherever one of ours with the same capabilities is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from workers.contract import InputError
from workers.moe.growth.redrawing import like_grown
from workers.moe.routed import routed_layers
from workers.moe.stepping import take_losses

SEED_PLACE = 3
"""Place of the seed among the arguments that every model is made with."""


def check_experts(experts: int, max_experts: int | None) -> None:
    """Refuse numbers of a model's experts, at the start and in the end, that cannot be."""
    if experts < 1:
        raise ValueError(f"experts must be at least 1, got {experts}")
    if max_experts is not None and max_experts < experts:
        raise ValueError(f"max_experts must be at least experts ({experts}), got {max_experts}")


class Model(nn.Module):
    """Base of models; a subclass names its capabilities and has a nested frozen ``Config``.

    Capabilities: ``labels`` (built from ``(config, input_shape, outputs, seed)``, ``forward(x)`` ->
    [B, outputs]), ``tokens`` (built from ``(config, (S,), V, seed)``, ``forward(x)`` of int64
    [B, S] -> logits [B, S, V] of the next tokens), ``acts`` (an ``ActingModel``). Parameters must
    depend on the constructor's arguments only. The Config of one that grows has ``experts`` (at
    the start) and ``max_experts`` (in the end, None = not settled).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    has_blocks: ClassVar[bool] = False
    """Whether it is a stack of modules, ``blocks``, each a function of its inputs, buffers and
    torch's generators alone, whose activations may be computed again in the backward pass."""
    blocks: Iterable[nn.Module]
    """The stack, where ``has_blocks``."""
    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *given: Any, **named: Any) -> Self:
        """Remember what it is made with, so that it can be made again."""
        made = super().__new__(cls)
        object.__setattr__(made, "_made_with", (given, named))
        return made

    def untrained(self, seed: int) -> Self:
        """A model of the same config and the present architecture, drawn by ``seed``, on the CPU.

        Its experts are drawn as new ones are. Where values come from files they are as they were
        read. Types of parameters are those of an unlowered model.
        """
        given, named = self._made_with
        if "seed" in named:
            return like_grown(type(self)(*given, **{**named, "seed": seed}), self, seed)
        again = type(self)(*given[:SEED_PLACE], seed, *given[SEED_PLACE + 1 :], **named)
        return like_grown(again, self, seed)

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """``loss/<kind>/<layer>`` -> weighted scalar of the last training forward, once each.

        Those of all routed layers inside; a trainer adds them to the task's loss and logs each by
        name.
        """
        return take_losses(self.routed)

    @property
    def readout(self) -> nn.Module | None:
        """The part that reads a sample's features [B, ...] and gives its outputs; None where no one
        part does."""
        return None

    def export(self, folder: Path) -> None:
        """Write the model in a form that other programs load, all at once or not at all.

        Raises InputError where there is none.
        """
        raise InputError(
            f"{type(self).__name__} has no form outside growstage; its checkpoints are "
            "safetensors files and JSON. Models that can be exported: huggingface"
        )

    @cached_property
    def routed(self) -> dict[str, Any]:
        """Routed layers (``workers.moe.routed.RoutedLayer``) by module name. Found once: a walk
        over all modules costs as much as a layer, and growth adds none."""
        return routed_layers(self)
