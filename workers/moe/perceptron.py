"""Maps one behind the other with ReLU between them: what dense heads and MLP experts are made of.

Knows nothing of routing, growth and budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import Tensor, nn


def check_hidden(hidden: Sequence[int]) -> None:
    """Refuse widths below 1."""
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden widths must be at least 1, got {tuple(hidden)}")


class Stack(nn.Module):
    """Base of modules that pass their input through ``layers``; a subclass fills them."""

    layers: nn.ModuleList

    def fill(self, layers: Iterable[nn.Module]) -> None:
        """Take these as ``layers``, at least one."""
        self.layers = nn.ModuleList(layers)
        self.activation = nn.ReLU()

    @property
    def readout(self) -> nn.Module:
        """The last layer."""
        return self.layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        y: Tensor = last(x)
        return y


class Perceptron(Stack):
    """Base of multi-layer perceptrons: a stack of linear maps of fixed widths."""

    def draw(self, sizes: Sequence[int]) -> None:
        """Fill with maps between these widths, drawn from torch's default generator."""
        self.fill(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))

    def zero_output(self) -> None:
        """Make it answer 0 to everything: the last map becomes 0."""
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)
