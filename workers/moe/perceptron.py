"""Maps one behind the other, a function between: what dense heads and MLP experts are made of.

Knows nothing of routing, growth and budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from workers.units.hidden import Hidden


def check_hidden(hidden: Sequence[int]) -> None:
    """Refuse widths below 1."""
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden widths must be at least 1, got {tuple(hidden)}")


class CReLU(nn.Module):
    """Concatenated ReLU, ``[relu(z), relu(-z)]`` along the last dimension (arXiv 1603.05201).

    Against loss of plasticity (arXiv 2303.07507): no unit is silent for all inputs.
    """

    def forward(self, z: Tensor) -> Tensor:
        """[..., H] -> [..., 2 H]."""
        return torch.relu(torch.cat([z, -z], -1))


Activation = Literal["relu", "crelu"]
Norm = Literal["none", "layer"]


class Between(NamedTuple):
    """What stands between two maps."""

    activation: Activation = "relu"
    norm: Norm = "none"

    def maps(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Inputs and outputs of each map between these widths; a hidden one counts units."""
        read = [size * (self.copies if place else 1) for place, size in enumerate(sizes)]
        return [(a, b) for (a, _), (_, b) in zip(pairwise(read), pairwise(sizes), strict=True)]

    @property
    def copies(self) -> int:
        """Numbers that are read of each unit."""
        return 2 if self.activation == "crelu" else 1

    def function(self) -> nn.Module:
        """The activation."""
        return _ACTIVATIONS[self.activation]()

    def norms(self, widths: Iterable[int]) -> list[nn.Module]:
        """Norms over the units of hidden layers of these widths; empty where there are none."""
        return [nn.LayerNorm(width) for width in widths if self.norm == "layer"]


_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "crelu": CReLU}
RELU = Between()


class Stack(nn.Module):
    """Base of modules that pass their input through ``layers``; a subclass fills them."""

    layers: nn.ModuleList

    def fill(
        self,
        layers: Iterable[nn.Module],
        between: Between = RELU,
        norms: Iterable[nn.Module] = (),
    ) -> None:
        """Take these as ``layers``, at least one, with this between them; ``norms``: of each but
        the last, before the activation."""
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(norms)
        self.between = between
        self.activation = between.function()

    @property
    def reader(self) -> nn.Module:
        """What reads the input."""
        return self.layers[0]

    @property
    def readout(self) -> nn.Module:
        """The last layer."""
        return self.layers[-1]

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        *hidden, last = self.layers
        for place, layer in enumerate(hidden):
            x = layer(x)
            x = self.activation(self.norms[place](x) if self.norms else x)
        y: Tensor = last(x)
        return y

    def hidden_units(self) -> dict[str, Hidden]:
        """Outputs of each layer but the last, behind the activation."""
        norms: Sequence[Any] = list(self.norms) or [None] * len(self.layers)
        return {
            f"layers.{place}": Hidden(
                made_by=layer,
                read_by=(reader,),
                activation=self.between.activation,
                norm=norms[place],
            )
            for place, (layer, reader) in enumerate(pairwise(self.layers))
        }


class Perceptron(Stack):
    """Base of multi-layer perceptrons: a stack of linear maps of fixed widths."""

    def draw(self, sizes: Sequence[int], between: Between = RELU) -> None:
        """Fill with maps between these widths, drawn from torch's default generator."""
        maps = (nn.Linear(fan_in, fan_out) for fan_in, fan_out in between.maps(sizes))
        self.fill(maps, between, between.norms(sizes[1:-1]))

    def zero_output(self) -> None:
        """Make it answer 0 to everything: the last map becomes 0."""
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)
