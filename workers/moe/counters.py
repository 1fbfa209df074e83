"""Running sums of one routed layer: gate weights by expert, choices by domain and expert.

They stay on the device until they are taken. Letters: T tokens, E experts, G domains.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workers.moe.selection import Selection


class Counters:
    """Sums since they were last taken; experts may be added and removed in between."""

    def __init__(self) -> None:
        self.domains: tuple[str, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._reset_weights()
        self._reset_choices()
        self._sums: dict[str, Tensor] = {}

    def _reset_weights(self) -> None:
        self._weights_E = torch.zeros(0)
        self._passes = 0

    def _reset_choices(self) -> None:
        self._choices_GE = torch.zeros(len(self.domains), 0, dtype=torch.int64)
        self._tokens_G = torch.zeros(len(self.domains), dtype=torch.int64)

    def remove(self, place: int) -> None:
        """The expert at this place is gone; figures of selectors begin anew."""
        self._weights_E = _without(self._weights_E, place)
        self._choices_GE = _without(self._choices_GE, place)
        self._sums = {}

    def count_for(self, domains: tuple[str, ...]) -> None:
        """Count for these domains; counts for others are dropped."""
        if domains != self.domains:
            self.domains = domains
            self._reset_choices()

    def add_weights(self, selection: Selection) -> None:
        """Add the gate weights of T tokens."""
        sums_E = selection.weight_sums()
        self._weights_E = _widened(self._weights_E, len(sums_E)).to(sums_E) + sums_E
        self._passes += selection.tokens

    def add_choices(self, selection: Selection, domain_T: Tensor) -> None:
        """Add the choices of T tokens, each counted for its domain."""
        chosen_GE = selection.choices_by(domain_T, len(self.domains))
        wide_GE = _widened(self._choices_GE, chosen_GE.shape[1])
        self._choices_GE = wide_GE.to(chosen_GE.device) + chosen_GE

    def add_tokens(self, domain_T: Tensor) -> None:
        """Count T tokens, each for its domain."""
        tokens_G = self._tokens_G.to(domain_T.device)
        self._tokens_G = tokens_G.index_add(0, domain_T, torch.ones_like(domain_T))

    def add_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Add figures of some tokens by name, scalars or vectors."""
        for name, values in sums.items():
            values = values.detach().reshape(-1).double()
            before = self._sums.get(name, values.new_zeros(0))
            self._sums[name] = _widened(before, len(values)) + values

    def take_weights(self, experts: int) -> Tensor:
        """float64 [experts + 1]: sum of each expert's gate weights, and over how many passes."""
        sums_E = _widened(self._weights_E, experts).double()
        passes = sums_E.new_tensor([self._passes])
        self._reset_weights()
        return torch.cat([sums_E, passes])

    def take_sums(self, entries: Mapping[str, int]) -> dict[str, Tensor]:
        """Each figure of so many entries, float64; 0 where nothing was added."""
        empty = torch.zeros(0, dtype=torch.float64)
        taken = {name: _widened(self._sums.get(name, empty), n) for name, n in entries.items()}
        self._sums = {}
        return taken

    def take_choices(self, experts: int) -> Tensor:
        """int64 [G, experts + 1]: by domain, tokens that chose each expert, and all its tokens."""
        chosen_GE = _widened(self._choices_GE, experts)
        counted = torch.cat([chosen_GE, self._tokens_G.to(chosen_GE.device).unsqueeze(1)], 1)
        self._reset_choices()
        return counted


def _without(sums: Tensor, place: int) -> Tensor:
    """All entries but one (last dimension); one that was not counted yet has none."""
    return torch.cat([sums[..., :place], sums[..., place + 1 :]], -1)


def _widened(sums: Tensor, experts: int) -> Tensor:
    """Zeros for the experts added since the sums began (last dimension)."""
    if sums.shape[-1] == experts:
        return sums
    wide = sums.new_zeros((*sums.shape[:-1], experts))
    wide[..., : sums.shape[-1]] = sums
    return wide
