"""Parameters shrunk and perturbed, or drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from workers.contract.errors import InputError
from workers.edits.base import Change, Edit, EditProbe, Forward

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkPerturb(Edit):
    """Learning parameters become ``shrink * w + perturb * w'``, w' those of an untrained model.

    Shrink and perturb (Ash and Adams, arXiv 1910.08475, section 4). The untrained model has the
    present architecture and is drawn by the edit's seed, so that noise has each parameter's own
    initial spread. Frozen parameters and buffers stay, the optimizer keeps its state.
    """

    noun: ClassVar[str] = "perturbation"

    kind: Literal["shrink_perturb"] = "shrink_perturb"
    shrink: float
    perturb: float
    parts: tuple[str, ...] = ()
    """Parts of the model (first words of parameters' names, ``head``); none = all."""

    def text(self) -> str:
        return f"{_of(self.parts)} shrunk to {self.shrink:g}, perturbed by {self.perturb:g}"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        import torch

        names = learning(module, self.parts, "shrink and perturb")

        @torch.no_grad()
        def change() -> Change:
            drawn = _untrained(module, self.seed)
            for name in names:
                parameter = module.get_parameter(name)
                fresh = drawn.get_parameter(name).to(parameter)
                parameter.mul_(self.shrink).add_(fresh, alpha=self.perturb)
            return Change(rebind=False)

        return change


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Edit):
    """Learning parameters are those of an untrained model afterwards, and so are their buffers.

    The untrained model has the present architecture and is drawn by the edit's seed. The optimizer
    forgets what it knew of them. Frozen parameters stay.
    """

    noun: ClassVar[str] = "reset"

    kind: Literal["reset"] = "reset"
    parts: tuple[str, ...] = ()
    """Parts of the model (first words of parameters' names, ``head``); none = all."""

    def text(self) -> str:
        return f"{_of(self.parts)} drawn anew"

    def plan(
        self, module: nn.Module, probe: EditProbe | None, forward: Forward
    ) -> Callable[[], Change]:
        import torch

        names = learning(module, self.parts, "reset")

        @torch.no_grad()
        def change() -> Change:
            drawn = _untrained(module, self.seed)
            for name in names:
                parameter = module.get_parameter(name)
                parameter.copy_(drawn.get_parameter(name))
            fresh = dict(drawn.named_buffers())
            for name, buffer in module.named_buffers():
                if inside(name, self.parts):
                    buffer.copy_(fresh[name])
            return Change(rebind=False, cleared=dict.fromkeys(names))

        return change


def learning(module: nn.Module, parts: tuple[str, ...], what: str) -> list[str]:
    """Names of the parameters of these parts that learn; InputError, which begins with ``what``,
    where a part is not there or none learns."""
    named = dict(module.named_parameters())
    absent = [part for part in parts if not any(inside(name, (part,)) for name in named)]
    if absent:
        have = ", ".join(dict.fromkeys(name.partition(".")[0] for name in named))
        raise InputError(f"{what}: the model has no parts {absent}; its parts are {have}")
    found = [name for name, p in named.items() if p.requires_grad and inside(name, parts)]
    if not found:
        raise InputError(f"{what}: all of {_of(parts)} is frozen; reset what learns")
    return found


def inside(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a parameter or buffer belongs to one of the parts; none = all."""
    return not parts or any(f"{name}.".startswith(f"{part}.") for part in parts)


def _of(parts: tuple[str, ...]) -> str:
    return ", ".join(parts) or "the model"


def _untrained(module: Any, seed: int) -> Any:
    from workers.models.base import Model

    if not isinstance(module, Model):
        raise InputError(
            f"{type(module).__name__} cannot be drawn anew; derive it from workers.models.Model"
        )
    return module.untrained(seed)
