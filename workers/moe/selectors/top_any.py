"""Top-any: every expert has a threshold of its own, and a token runs all that it passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.moe.routed import Birth
from workers.moe.selection import Selection, exact
from workers.moe.selectors.base import Selector


class TopAny(Selector):
    """Expert e runs if ``s_e > sigmoid(G_e)``, ``s = sigmoid(logits)`` (DynMoE, arXiv 2405.14297).

    G_e is trained, 0 for a new expert and its parent's for a copy. A token's weights are 1/k for
    each of its k experts; their gradient is that of ``s_e - sigmoid(G_e)`` (straight through the
    sign), which router and thresholds learn by. A token that passes no threshold runs no expert in
    training, where it is counted (``unserved``), and the one with the largest s otherwise. Made for
    router ``cosine``; a residual or a shared expert serves what nobody does in training.

    Over an interval it sums its tokens, those that passed no threshold and how many passed each
    expert's, and keeps the direction of the summed features of the first, on which initialiser
    ``unserved`` puts a new expert.
    """

    direction: Tensor

    counts_unserved: ClassVar[bool] = True

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Selector.Config):
        """Settings of top-any (none)."""

        kind: str = "top_any"

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.thresholds = nn.ParameterDict()
        self.inputs = 0
        self.register_buffer("direction", torch.zeros(0))

    def for_inputs(self, inputs: int) -> None:
        self.inputs = inputs
        self.direction = torch.zeros(inputs)

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        for name in [name for name in self.thresholds if int(name) not in births]:
            del self.thresholds[name]
        for number, birth in births.items():
            if str(number) not in self.thresholds:
                parent = self.thresholds.get(str(birth.parent), torch.zeros(()))
                self.thresholds[str(number)] = nn.Parameter(parent.detach().clone())

    def parameters_of(self, expert: int) -> Iterable[nn.Parameter]:
        return (self.thresholds[str(expert)],)

    def active(self, experts: int) -> float:
        """Half of them: what directions without any relation to the tokens would run."""
        return max(1.0, experts / 2)

    def logit_shift(self, ratio: float) -> float:
        """0: no logit changes the weight of a chosen expert."""
        return 0.0

    def select(self, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool) -> Selection:
        """See ``Selector.select``; ``forward`` adds what is summed."""
        levels_E = torch.sigmoid(exact(torch.stack(list(self.thresholds.values()))))
        scores_TE = torch.sigmoid(exact(logits_TE))
        above_TE = scores_TE - levels_E
        chosen_TE = above_TE > 0
        if allowed_TE is not None:
            chosen_TE &= allowed_TE
            scores_TE = scores_TE.masked_fill(~allowed_TE, -1.0)
        if not training:
            best_TE = functional.one_hot(scores_TE.argmax(1), scores_TE.shape[1]).bool()
            chosen_TE = chosen_TE | (best_TE & (scores_TE >= 0) & ~chosen_TE.any(1, keepdim=True))
        through_TE = torch.where(chosen_TE, 1 + above_TE - above_TE.detach(), 0.0)
        weights_TE = through_TE / chosen_TE.sum(1, keepdim=True).clamp_min(1)
        return Selection(chosen_TE, weights_TE.to(logits_TE.dtype))

    def forward(
        self, x_TD: Tensor, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool
    ) -> Selection:
        """See ``Selector.forward``."""
        found = self.select(logits_TE, allowed_TE, training)
        if training:
            idle_T = ~found.chosen_TE.any(1)
            found.sums = {
                "tokens": torch.full((), len(x_TD), device=x_TD.device),
                "unserved": idle_T.sum(),
                "passed": found.chosen_TE.sum(0),
                "features": (exact(x_TD.detach()) * idle_T.unsqueeze(1)).sum(0),
            }
        return found

    def summed(self, experts: int) -> Mapping[str, int]:
        return {"tokens": 1, "unserved": 1, "passed": experts, "features": self.inputs}

    def take(self, sums: Mapping[str, Tensor]) -> dict[str, list[float]]:
        if sums["unserved"].item() > 0:
            found = functional.normalize(sums["features"], dim=0)
            self.direction = found.to(self.direction)
        return {name: sums[name].tolist() for name in ("tokens", "unserved", "passed")}

    def unserved(self) -> Tensor | None:
        """See ``Selector.unserved``."""
        return self.direction if self.direction.any() else None
