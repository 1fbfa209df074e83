"""The MLP expert: a whole multi-layer perceptron. Knows nothing of routing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workers.moe.experts.base import Expert
from workers.moe.experts.feed_forward import FeedForward, linear_map
from workers.moe.perceptron import Perceptron, check_hidden
from workers.moe.seeding import seeded


class MLPExpert(Perceptron, Expert):
    """Linear layers with ReLU between them, of fixed widths."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of an MLP expert."""

        kind: str = "mlp"
        hidden: tuple[int, ...] = (256, 256)
        """Widths of the hidden layers."""

        def __post_init__(self) -> None:
            check_hidden(self.hidden)

    def __init__(self, config: Config, inputs: int, outputs: int, width: int = 0) -> None:
        super().__init__(config, inputs, outputs, width)
        self.width = config.hidden[0] if config.hidden else 0
        # one draw of the layer's stream seeds the whole expert
        with seeded(int(torch.randint(2**31 - 1, (), device="cpu"))):
            self.draw([inputs, *config.hidden, outputs])

    def feed_forward(self) -> FeedForward:
        """See ``Expert.feed_forward``."""
        return FeedForward(tuple(linear_map(layer) for layer in self.layers))  # type: ignore[arg-type]
