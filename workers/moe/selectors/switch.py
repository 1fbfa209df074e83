"""Switch routing: one expert for each token, and experts that take only so many tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from workers.moe.selection import Selection
from workers.moe.selectors.capacity import check_capacity, places
from workers.moe.selectors.ranked import Ranked


class Switch(Ranked):
    """The best expert of each token, weighted by its softmax over all; full experts drop tokens.

    ``y = p_e(x) E_e(x)``, ``e = argmax p``. In training an expert takes the first
    ``ceil(capacity n / E)`` of the n tokens of a forward that chose it (Switch Transformer, arXiv
    2101.03961, equations 1 to 3). The layer answers 0 for a dropped token, which then has only what
    goes around the layer (layer ``residual``, shared experts). Without training none is dropped,
    so that no token's answer depends on the others. Workers that train one lane, and the parts of
    a step, count their own tokens. Made for the loss ``balance``.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Ranked.Config):
        """Settings of switch routing."""

        kind: str = "switch"
        capacity: float = 1.25
        """Capacity factor: 1 = just enough places where all experts are chosen alike."""
        weights: Literal["full"] = "full"
        """The softmax over all experts; over one chosen expert the router would not learn."""

        def __post_init__(self) -> None:
            check_capacity(self.capacity)
            Ranked.Config.__post_init__(self)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.capacity = config.capacity

    def active(self, experts: int) -> float:
        """1, or the capacity factor where places are fewer than tokens."""
        return min(1.0, self.capacity)

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``."""
        noise_TE = self.noise_like(logits_TE, training)
        capacity = places(self.capacity, *logits_TE.shape) if training else 0
        how = {"selector": "topk", "k": 1, "capacity": capacity}
        return self.ranked(logits_TE, allowed_TE, noise_TE, varies=False, **how)
