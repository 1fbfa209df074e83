"""The drift guard: new experts take only tokens that are clearly theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.moe.routed import Birth, newest
from workers.moe.selection import Selection, exact
from workers.moe.selectors.around import Around, narrowed
from workers.tables import Problem

EPSILON = 1e-6


class DriftGuard(Around):
    """In training an ambiguous token may not choose experts of the latest growth.

    LLaVA-DyMoE (arXiv 2603.27481). With c_old and c_new the largest logit of a token among older
    experts and among those of the latest growth (born in the latest stage in which growth added
    any), ``D = |c_new - c_old| / (max(|c_new|, |c_old|) + eps)``; new experts stay open to it only
    if ``D > threshold`` and ``c_new > c_old``, else their logits are -inf. Any selector chooses
    among what stays open. Outside training nothing is kept from a token.
    """

    new: Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Around.Config):
        """Settings of the drift guard."""

        kind: str = "drift_guard"
        threshold: float = 0.2
        """Relative distance of the two logits from which a token counts as clear."""

        def __post_init__(self) -> None:
            if self.threshold < 0:
                raise ValueError(f"threshold must not be negative, got {self.threshold}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Without growth it is the selector inside, and nobody would know."""
            if "grow" in lane.proposes or lane.begins_trained:
                return []
            found = "no policy of the lane adds experts, so there are no new ones to guard"
            allowed = "give a policy that grows, such as periodic, or use its inner selector alone"
            return [Problem("kind", found, allowed)]

        @property
        def chooses_all(self) -> bool:
            """Never, once the model has grown."""
            return False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.register_buffer("new", torch.zeros(0, dtype=torch.bool), persistent=False)
        self._guards = False  # whether there are experts of both ages

    def experts_changed(self, births: Mapping[int, Birth]) -> None:
        super().experts_changed(births)
        new = newest(births.values())
        self.new = torch.tensor(new, device=self.new.device)
        self._guards = any(new) and not all(new)

    def forward(
        self, x_TD: Tensor, logits_TE: Tensor, allowed_TE: Tensor | None, training: bool
    ) -> Selection:
        """See ``Selector.forward``."""
        if training and self._guards:
            open_TE = self.open(exact(logits_TE.detach()), allowed_TE)
            allowed_TE = narrowed(allowed_TE, open_TE)
        return super().forward(x_TD, logits_TE, allowed_TE, training)

    def open(self, logits_TE: Tensor, allowed_TE: Tensor | None) -> Tensor:
        """Bool [T, E]: older experts, and for clear tokens the new ones."""
        if allowed_TE is not None:
            logits_TE = logits_TE.masked_fill(~allowed_TE, float("-inf"))
        old_T = logits_TE[:, ~self.new].amax(1)
        new_T = logits_TE[:, self.new].amax(1)
        scale_T = torch.maximum(old_T.abs(), new_T.abs()) + EPSILON
        clear_T = (new_T > old_T) & ((new_T - old_T).abs() > self.config.threshold * scale_T)
        return ~self.new | clear_T.unsqueeze(1)
