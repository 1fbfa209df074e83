"""The head of heads: each expert is a whole MLP, under a single router."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from workers.moe.experts import MLPExpert
from workers.moe.layers import LAYERS, MoELayer
from workers.moe.perceptron import check_hidden
from workers.tables import choice


class BigMoE(MoELayer):
    """Each expert is a whole dense head, one router on the features (DynamicMoE's big variant)."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the head of heads."""

        kind: str = "big_moe"
        hidden: tuple[int, ...] = (256, 256)
        """Widths of each expert's hidden layers."""
        layer: Any = choice(LAYERS, "moe")
        """How the experts are routed: a layer of kind moe without ``expert``."""

        def __post_init__(self) -> None:
            check_hidden(self.hidden)
            plain, layer = MoELayer.Config(), self.layer
            if type(layer) is not MoELayer.Config or layer.expert != plain.expert:
                raise ValueError(
                    "layer must be of kind moe and say nothing of expert: the head's experts are "
                    "MLPs with its hidden widths; for other ones use head moe"
                )

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
    ) -> None:
        layer = replace(config.layer, expert=MLPExpert.Config(hidden=config.hidden))
        super().__init__(layer, inputs, outputs, experts, max_experts, seed)

    @property
    def reader(self) -> MoELayer:
        """What reads the input: the one layer that it is."""
        return self
