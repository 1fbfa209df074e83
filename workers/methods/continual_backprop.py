"""Continual backpropagation: the least useful units are made new, few at a time.

Letters: U units of all places, G places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import LaneSettings
from workers.methods.of_units import OfUnits
from workers.supervised.objectives import Objective
from workers.tables import Problem
from workers.units.activity import Seen
from workers.units.checks import unfit
from workers.units.side import Units


class ContinualBackprop(OfUnits):
    """Replace the least useful mature units of each layer at a fixed rate (continual backprop).

    Dohare et al., Loss of plasticity in deep continual learning (Nature 632, 2024; arXiv
    2306.13812), algorithm 1. Contribution utility of unit i of a layer, at each step over the
    batch: ``u_i <- decay * u_i + (1 - decay) * mean|h_i| * sum_k |w_ik|``, compared as
    ``u_i / (1 - decay^age_i)``. Of the units older than ``maturity`` steps a share
    ``replacement`` is made new at each step, shares adding up until they are a whole unit:
    incoming weights drawn as at first, outgoing ones 0, utility and age 0, optimizer state
    cleared. Units are those of dense layers, filters, and hidden units of experts, each expert
    being a layer of its own; steps count where the unit learnt.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(OfUnits.Config):
        """Rate, threshold and decay."""

        kind: str = "continual_backprop"
        replacement: float = 1e-4
        """Share of the mature units of a layer that is replaced at each step (rho)."""
        maturity: int = 100
        """Steps before a unit may be replaced (m)."""
        decay: float = 0.99
        """How slowly utilities follow (eta), from 0 to below 1."""

        def __post_init__(self) -> None:
            if not 0 <= self.replacement <= 1:
                raise ValueError(f"replacement must be from 0 to 1, got {self.replacement}")
            if self.maturity < 1:
                raise ValueError(f"maturity must be at least 1, got {self.maturity}")
            if not 0 <= self.decay < 1:
                raise ValueError(f"decay must be from 0 to below 1, got {self.decay}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """The model must tell its units."""
            return unfit(lane)

    config: ContinualBackprop.Config
    figures = ("utility", "age")

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.due: dict[str, float] = {}
        """Share of a unit that is due at each place."""

    def step(self, units: dict[str, Units], seen: Seen, learnt_U: Tensor) -> Tensor:
        decay = self.config.decay
        outgoing_U = torch.cat([part.outgoing_size().cpu() for part in units.values()])
        utility_U, age_U = self.figure("utility"), self.figure("age")
        followed_U = decay * utility_U + (1.0 - decay) * seen.mean * outgoing_U
        utility_U = torch.where(learnt_U, followed_U, utility_U)
        age_U = age_U + learnt_U
        self.set_figure("utility", utility_U)
        self.set_figure("age", age_U)
        mature_U = learnt_U & (age_U > self.config.maturity)
        corrected_U = utility_U / (1.0 - decay ** age_U.clamp_min(1.0))
        ranked_U = corrected_U.masked_fill(~mature_U, torch.inf)
        return self._least(units, ranked_U, mature_U)

    def _least(self, units: dict[str, Units], ranked_U: Tensor, mature_U: Tensor) -> Tensor:
        """The least useful mature units of each place, as many as are due."""
        sizes = [part.count for part in units.values()]
        mature_G = [int(part.sum()) for part in mature_U.split(sizes)]
        chosen_U = torch.zeros_like(mature_U)
        start = 0
        for place, size, mature in zip(units, sizes, mature_G, strict=True):
            due = self.due.get(place, 0.0) + self.config.replacement * mature
            count = min(int(due), mature)
            if count:
                order = ranked_U[start : start + size].sort(stable=True).indices
                chosen_U[start + order[:count]] = True
            self.due[place] = due - count
            start += size
        return chosen_U

    def watch(self, model: nn.Module) -> None:
        super().watch(model)
        self.due = {place: self.due.get(place, 0.0) for place in self.kept}

    def state(self) -> dict[str, Tensor]:
        due = {
            f"due/{place}": torch.tensor(share, dtype=torch.float64)
            for place, share in self.due.items()
        }
        return super().state() | due

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        super().load_state(state, model)
        due = {key.removeprefix("due/"): v for key, v in state.items() if key.startswith("due/")}
        self.due = {place: float(share) for place, share in due.items()}
