"""The MLP expert: a whole multi-layer perceptron. Knows nothing of routing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from workers.moe.experts.base import Expert
from workers.moe.seeding import seeded


class MLPExpert(Expert):
    """Linear layers with ReLU between them, of fixed widths."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of an MLP expert."""

        kind: str = "mlp"
        hidden: tuple[int, ...] = (256, 256)
        """Widths of the hidden layers."""

        def __post_init__(self) -> None:
            if any(width < 1 for width in self.hidden):
                raise ValueError(f"hidden widths must be at least 1, got {self.hidden}")

    def __init__(self, config: Config, inputs: int, outputs: int, width: int = 0) -> None:
        super().__init__(config, inputs, outputs, width)
        self.width = config.hidden[0] if config.hidden else 0
        sizes = [inputs, *config.hidden, outputs]
        # one draw of the layer's stream seeds the whole expert
        with seeded(int(torch.randint(2**31 - 1, (), device="cpu"))):
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        y: Tensor = last(x)
        return y

    def zero_output(self) -> None:
        """Set the last layer to 0."""
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)
