"""The static head: plain linear layers with ReLU between them."""

from __future__ import annotations

from dataclasses import dataclass

from workers.moe.perceptron import Perceptron, check_hidden
from workers.moe.seeding import seeded


class MLP(Perceptron):
    """Static dense head: linear layers with ReLU between them; never grows."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the static head."""

        kind: str = "mlp"
        hidden: tuple[int, ...] = (256, 256)
        """Widths of the hidden layers."""

        def __post_init__(self) -> None:
            check_hidden(self.hidden)

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
    ) -> None:
        """``experts`` and ``max_experts`` are taken as every head takes them, and mean nothing."""
        super().__init__()
        self.width = config.hidden[0] if config.hidden else 0
        with seeded(seed):
            self.draw([inputs, *config.hidden, outputs])
