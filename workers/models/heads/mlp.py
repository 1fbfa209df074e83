"""The static head: plain linear layers with ReLU between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from workers.moe.seeding import seeded


def check_hidden(hidden: Sequence[int]) -> None:
    """Refuse widths below 1."""
    if any(width < 1 for width in hidden):
        raise ValueError(f"hidden widths must be at least 1, got {tuple(hidden)}")


class MLP(nn.Module):
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
        sizes = [inputs, *config.hidden, outputs]
        with seeded(seed):
            self.layers = nn.ModuleList(
                nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        y: Tensor = last(x)
        return y

    def zero_output(self) -> None:
        """Make the head answer 0 to everything."""
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)
