"""What every router offers beside its logits: growth by rows, and what phases ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from workers.contract import InputError, Json


class Router(nn.Module, ABC):
    """Scores experts. One row per expert, added and never reshaped."""

    adapts: ClassVar[bool] = False
    """Whether ``adapt`` has it take over from the router trained so far."""

    progress: float = 0.0
    """Share of the stage's training that is done, 0 to 1; set by who trains."""

    @abstractmethod
    def forward(self, x_TD: Tensor) -> Tensor:
        """Logits [T, E] in the order in which the experts were added."""

    @abstractmethod
    def add(self, expert: int) -> None:
        """A new row for ``expert``, freshly drawn."""

    @abstractmethod
    def remove(self, expert: int) -> None:
        """Forget the row of ``expert``."""

    @abstractmethod
    def split(self, parent: int, child: int, amount: float) -> None:
        """Give the child the parent's row, and take ``amount`` off both biases."""

    @abstractmethod
    def lower(self, expert: int, amount: float) -> None:
        """Take ``amount`` off the expert's bias."""

    @abstractmethod
    def hold_back(self, expert: int, offset: float, steps: int) -> None:
        """Zero row for ``expert``, its logit lowered by ``offset``, back to 0 within ``steps``."""

    def learning_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that a phase may train."""
        yield from self.parameters()

    def adapt(self, seed: int) -> None:
        """Take over from the router trained so far; nothing to do for a router without a second."""

    def fit(self, x_TD: Tensor, y_T: Tensor, seed: int) -> None:
        """Set the parameters from tokens and their targets, without a gradient."""
        raise InputError(f"{type(self).__name__} is trained by gradients and cannot be fitted")

    def distillation(self, x_TD: Tensor) -> Tensor | None:
        """Weighted loss that keeps the router near its teacher; None where it has none."""
        return None

    def arch(self) -> Json:
        """What the rows' names do not tell; None where there is nothing."""
        return None

    def ensure_arch(self, arch: Json) -> None:
        """Take the form that ``arch`` says; the rows are there already."""
