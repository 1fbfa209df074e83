"""Classifier: backbone + head. Knows no data and no optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from workers.contract import derive_seed
from workers.models.backbones import BACKBONES, InputShape
from workers.models.base import Model, check_experts
from workers.models.heads import HEADS
from workers.tables import choice, construct
from workers.units.hidden import Hidden


class Classifier(Model):
    """Image or vector classifier: a dense backbone and a head that may grow.

    The parameters depend on (config, input_shape, outputs, seed) only.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"labels"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a classifier."""

        kind: str = "classifier"
        experts: int = 1
        """Experts at the start (the granularity g)."""
        max_experts: int | None = None
        """Final number of experts, which sets their width; None = those at the start."""
        backbone: Any = choice(BACKBONES, "mlp")
        """What turns a sample into features; never grown."""
        head: Any = choice(HEADS, "moe")
        """What turns features into class scores."""

        def __post_init__(self) -> None:
            check_experts(self.experts, self.max_experts)

    def __init__(self, config: Config, input_shape: InputShape, outputs: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = construct(
            BACKBONES, config.backbone, input_shape, derive_seed(seed, "backbone")
        )
        self.head = construct(
            HEADS,
            config.head,
            self.backbone.outputs,
            outputs,
            experts=config.experts,
            max_experts=config.max_experts,
            seed=derive_seed(seed, "head"),
        )

    @property
    def readout(self) -> nn.Module | None:
        """That of the head, where it has one."""
        found: nn.Module | None = getattr(self.head, "readout", None)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> class scores [B, outputs]; integers are taken as they are."""
        if not x.is_floating_point():
            x = x.to(next(self.parameters()).dtype)
        y: Tensor = self.head(self.backbone(x))
        return y

    def hidden_units(self) -> dict[str, Hidden]:
        """What the head reads of the backbone, where both tell."""
        given: Hidden | None = getattr(self.backbone, "given", None)
        reader = getattr(self.head, "reader", None)
        if given is None or reader is None:
            return {}
        return {"backbone": replace(given, read_by=(reader,))}
