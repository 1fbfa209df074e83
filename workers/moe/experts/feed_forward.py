"""Linear maps one behind the other, as values: what dense layers and experts have in common.

Letters: W hidden units, D inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

Map = tuple[Tensor, Tensor | None]
"""Weight [out, in] and bias [out] of a linear map."""


@dataclass(frozen=True, slots=True)
class FeedForward:
    """One map, or several with a function between them: V act(U x + b) + c for two."""

    maps: tuple[Map, ...]
    activation: str = "relu"
    """Function between two maps, by its name in ``ops.expert_mlp.ACTIVATIONS``."""
    gated: bool = False
    """Of two maps, the first holds gates [W, D] above values [W, D]: V (act(G x) * (U x))."""

    @property
    def hidden(self) -> int:
        """Hidden units between two maps, W."""
        assert len(self.maps) == 2, "only two maps have hidden units that can be told apart"
        return self.maps[1][0].shape[1]

    @property
    def units(self) -> Tensor:
        """What each hidden unit reads by, [W, D], or [W, 2 D] where it has a gate."""
        weight = self.maps[0][0]
        return torch.cat(weight.chunk(2), 1) if self.gated else weight

    def part(self, units: Tensor, scale: float = 1.0) -> FeedForward:
        """The same with only these hidden units (int64), their output map times ``scale``."""
        (into, bias), (out, shift) = self.maps
        rows = torch.cat([units, units + self.hidden]) if self.gated else units
        first = into[rows], None if bias is None else bias[rows]
        return FeedForward((first, (out[:, units] * scale, shift)), self.activation, self.gated)

    @property
    def form(self) -> str:
        """Its shape in words."""
        sizes = [str(self.maps[0][0].shape[1]), *(str(len(weight)) for weight, _ in self.maps)]
        between = f", {self.activation}" if len(self.maps) > 1 else ""
        gated = ", gates above values" if self.gated else ""
        biased = ", with biases" if self.maps[0][1] is not None else ""
        return f"{' -> '.join(sizes)}{between}{gated}{biased}"


def linear_map(layer: nn.Linear) -> Map:
    """Weight and bias of a linear layer."""
    return layer.weight, layer.bias
