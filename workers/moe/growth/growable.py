"""Growable: the part of a model that can be given more experts, and walks over such parts.

Knows no optimizer and no edit; ``surgery`` turns an edit into calls of these methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from workers.contract import InputError, Json, LayerShape, ModelShape

if TYPE_CHECKING:
    from workers.moe.growth.initialisers import Initialiser


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """One growth of one part, as decided: how many experts, from what seed, by which rule."""

    experts: int
    """Experts that the model is said to have afterwards; a schedule may give the part fewer."""
    initialiser: Initialiser
    seed: int
    stage: str | None
    """Stage in which the new experts are born."""
    reading: Literal["unmask", "rescale"] = "unmask"
    inputs: Tensor | None = None
    """What the part reads on the probe batch, [..., inputs]; for the reading rescale, and for
    initialisers that look at it."""


def with_zero(values_E: Tensor) -> Tensor:
    """One entry more, 0. (``torch.cat`` on the meta device would import torch's compiler.)"""
    longer = values_E.new_zeros(len(values_E) + 1)
    longer[:-1] = values_E
    return longer


@dataclass(slots=True)
class Grown:
    """What a growth did: parents of the experts it added, parameters it made smaller."""

    parents: list[int | None] = field(default_factory=list)
    narrowed: dict[str, tuple[int, Tensor]] = field(default_factory=dict)
    """Parameter name -> (dimension, indices kept of it); the parameter itself is a new object."""


class Growable(nn.Module, ABC):
    """Base of every part that grows. Parameters are added and never reshaped, except by rescale."""

    @property
    @abstractmethod
    def live(self) -> int:
        """Experts it has now."""

    def target(self, experts: int) -> int:
        """Experts it has when the model is said to have ``experts``."""
        return experts

    def check(self, growth: Growth) -> None:
        """Raise InputError if the growth cannot be done; changes nothing."""
        if self.target(growth.experts) < self.live:
            raise InputError(
                f"growth to {growth.experts} experts asks for {self.target(growth.experts)} where "
                f"{self.live} are live; growth only adds: ask for more, or restore an earlier "
                "checkpoint"
            )
        if growth.reading == "rescale":
            raise InputError(
                f"reading 'rescale' needs a head whose experts have a hidden width to give up "
                f"(head moe with expert bottleneck), not {type(self).__name__}; use 'unmask'"
            )

    @abstractmethod
    def grow(self, growth: Growth) -> Grown:
        """Add experts until ``live == target(growth.experts)``; checked before."""

    @abstractmethod
    def layer_shape(self) -> LayerShape:
        """Live experts, hidden width of each, parameters."""

    def active_parameters(self) -> int:
        """Parameters that one sample passes through."""
        return count_parameters(self)

    @abstractmethod
    def arch(self) -> Json:
        """All that is needed to rebuild the parameters' names and shapes, as JSON."""

    @abstractmethod
    def ensure_arch(self, arch: Json) -> None:
        """Grow or shrink to ``arch``; values of new parameters are to be loaded afterwards."""


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def growables(module: nn.Module) -> dict[str, Growable]:
    """Growable parts by module name, outermost only, in module order."""
    found: dict[str, Growable] = {}
    for name, part in module.named_modules():
        if isinstance(part, Growable) and not any(
            name.startswith(f"{outer}.") or outer == "" for outer in found
        ):
            found[name] = part
    return found


def shape(module: nn.Module) -> ModelShape:
    """Shape of the model: growable layers by name, parameters in all, parameters per sample."""
    parts = growables(module)
    total = count_parameters(module)
    idle = sum(count_parameters(part) - part.active_parameters() for part in parts.values())
    layers = {name: part.layer_shape() for name, part in parts.items()}
    return ModelShape(layers=layers, parameters=total, active=total - idle)


def arch(module: nn.Module) -> dict[str, Json]:
    """Architecture of every growable part by name: travels with the weights."""
    return {name: part.arch() for name, part in growables(module).items()}


def ensure_arch(module: nn.Module, arch: Mapping[str, Json]) -> None:
    """Grow or shrink the module to a saved architecture, ready for a strict load_state_dict.

    Saved layers below a child that this copy of the model left out (a runner without its critic)
    are passed over; any other difference in layers is an InputError.
    """
    parts = growables(module)
    present = {name for name, _ in module.named_children()}
    wanted = {name for name in arch if name == "" or name.partition(".")[0] in present}
    if set(parts) != wanted:
        raise InputError(
            f"the saved architecture has the growable layers {sorted(wanted)}, the model "
            f"{sorted(parts)}; restore with the config that the checkpoint was made with"
        )
    for name, part in parts.items():
        part.ensure_arch(arch[name])


def freeze(module: nn.Module) -> None:
    """Stop the training of a module: no gradient at all, so no optimizer moves it."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None


def like(module: nn.Module, reference: nn.Module) -> Any:
    """``module`` on the device of the first parameter of ``reference``, if any, its parameters in
    the same type; buffers keep theirs."""
    parameter = next(reference.parameters(), None)
    if parameter is None:
        return module
    cast(module, parameter.dtype)
    return module.to(parameter.device)


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Make all parameters of this type but those of batch norms, which must be of the type of their
    running statistics; buffers keep theirs."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            continue
        for parameter in part.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
