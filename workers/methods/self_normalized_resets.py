"""Self-normalised resets: a unit is made new when its silence is improbable by its own past.

Letters: U units of all places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.methods.of_units import OfUnits
from workers.tables import Problem
from workers.units.activity import Seen
from workers.units.checks import unfit
from workers.units.side import Units


class SelfNormalizedResets(OfUnits):
    """Reset a unit that has been silent for longer than its past firing makes probable (SNR).

    Farias and Jozefiak, Self-normalized resets for plasticity in continual learning, arXiv
    2410.20098: a unit is reset once ``P(A >= a) <= rejection``, A being its time between two
    firings and a the time since the last one. Time is counted in samples (rows) that the unit was
    asked; A is taken to be geometric with the unit's own mean, ``P(A > a) = (1 - q)^a`` with q
    the share of its samples for which it fired, up to the last step in which it did, rather than
    by a histogram. A unit that has not fired yet is judged by the q of its whole layer. Incoming
    weights are drawn as at first, outgoing ones are 0, the optimizer's state and the unit's past
    are cleared.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(OfUnits.Config):
        """How improbable silence must be."""

        kind: str = "self_normalized_resets"
        rejection: float = 0.01
        """Probability of so long a silence at or below which a unit is reset (eta)."""

        def __post_init__(self) -> None:
            if not 0 < self.rejection < 1:
                raise ValueError(f"rejection must be between 0 and 1, got {self.rejection}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """The model must tell units that can be silent."""
            return unfit(lane, silent=True)

    config: SelfNormalizedResets.Config
    figures = ("fired", "asked", "silent")

    def step(self, units: dict[str, Units], seen: Seen, learnt_U: Tensor) -> Tensor:
        fired_U, asked_U, silent_U = (self.figure(name) for name in self.figures)
        fires_U = learnt_U & (seen.fired > 0)
        quiet_U = learnt_U & ~fires_U
        asked_U = torch.where(fires_U, asked_U + silent_U + seen.rows, asked_U)
        fired_U = torch.where(fires_U, fired_U + seen.fired, fired_U)
        silent_U = torch.where(quiet_U, silent_U + seen.rows, silent_U.masked_fill(fires_U, 0.0))
        for name, values_U in zip(self.figures, (fired_U, asked_U, silent_U), strict=True):
            self.set_figure(name, values_U)
        rate_U = torch.where(fired_U > 0, fired_U / asked_U, self._pooled(units, fired_U, asked_U))
        improbable_U = silent_U * torch.log1p(-rate_U) <= math.log(self.config.rejection)
        able = [part.can_be_silent for part in units.values()]
        sizes = torch.tensor([part.count for part in units.values()])
        return quiet_U & improbable_U & torch.tensor(able).repeat_interleave(sizes)

    @staticmethod
    def _pooled(units: dict[str, Units], fired_U: Tensor, asked_U: Tensor) -> Tensor:
        """Share of samples for which the units of each place fired, of those that did."""
        sizes = [part.count for part in units.values()]
        pairs = zip(fired_U.split(sizes), asked_U.split(sizes), strict=True)
        rates = [float(fired.sum() / asked.sum().clamp_min(1.0)) for fired, asked in pairs]
        return torch.tensor(rates, dtype=torch.float64).repeat_interleave(torch.tensor(sizes))
