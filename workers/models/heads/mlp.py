"""The static head: plain linear layers with a function between them."""

from __future__ import annotations

from dataclasses import dataclass

from workers.moe.perceptron import Activation, Between, Norm, Perceptron, check_hidden
from workers.moe.seeding import seeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Settings of heads with hidden layers."""

    kind: str
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""

    def __post_init__(self) -> None:
        check_hidden(self.hidden)


class MLP(Perceptron):
    """Static dense head: linear layers with ReLU between them; never grows."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Widths):
        """Settings of the static head."""

        kind: str = "mlp"
        norm: Norm = "none"
        """``layer``: layer norm before each activation (arXiv 1607.06450)."""
        activation: Activation = "relu"
        """``crelu``: concatenated ReLU, of which the next layer reads two numbers a unit."""

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
            between = Between(config.activation, config.norm)
            self.draw([inputs, *config.hidden, outputs], between)
