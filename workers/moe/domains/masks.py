"""Gradient masks of one routed layer: which experts each domain trains.

Knows no model and no cluster; the layer asks in every training forward, ``specialise`` sets it.
Letters: T tokens, E experts, G domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.contract import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Gradient mask of one layer: 1 where a domain trains an expert (DES-MoE, equation 6).

    Experts past the end of a row were born after it was made: every domain trains them.
    """

    version: int
    domains: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    """Domain -> 0 or 1 for each expert, by id."""
    copies: Mapping[int, str] = field(default_factory=dict)
    """Copy -> the domain whose tokens alone choose it in training, where they are exclusive."""

    @property
    def binding(self) -> bool:
        """Whether anything is masked at all."""
        return bool(self.copies) or not all(all(row) for row in self.rows)

    def trains(self, domain: str, expert: int) -> bool:
        """Whether tokens of a domain may teach an expert, if it is there."""
        if domain not in self.domains:
            return True
        row = self.rows[self.domains.index(domain)]
        return expert >= len(row) or bool(row[expert])

    def arch(self) -> Json:
        """As JSON, for the architecture that travels with the weights."""
        copies = {str(expert): owner for expert, owner in self.copies.items()}
        rows = [list(row) for row in self.rows]
        return {
            "version": self.version,
            "domains": list(self.domains),
            "rows": rows,
            "copies": copies,
        }

    @classmethod
    def of(cls, arch: Json) -> Mask:
        """Back from ``arch``."""
        return cls(
            version=arch["version"],
            domains=tuple(arch["domains"]),
            rows=tuple(tuple(row) for row in arch["rows"]),
            copies={int(expert): owner for expert, owner in arch["copies"].items()},
        )


class Masking:
    """The mask of one layer as tensors, made once for each set of domains and experts."""

    def __init__(self) -> None:
        self.mask: Mask | None = None
        self._trainable_GE: Tensor | None = None
        self._owner_E: Tensor | None = None
        self._known: tuple[tuple[str, ...], tuple[int, ...]] = (), ()
        """Domains and experts that the tensors are for."""

    def set(self, mask: Mask | None) -> None:
        """Train under another mask from now on."""
        self.mask, self._trainable_GE, self._owner_E = mask, None, None

    def trainable(
        self, domain_T: Tensor, domains: tuple[str, ...], experts: tuple[int, ...]
    ) -> Tensor | None:
        """Bool [T, E]: may this expert learn from this token (equation 8)? None = all may.

        ``domain_T``: place of each token's domain in ``domains``; ``experts``: the live ones' ids.
        """
        if self.mask is None or not self.mask.binding:
            return None
        self._know(domains, experts)
        if self._trainable_GE is None:
            rows = [[self.mask.trains(domain, n) for n in experts] for domain in domains]
            self._trainable_GE = torch.tensor(rows, device=domain_T.device)
        return self._trainable_GE[domain_T]

    def allowed(
        self, domain_T: Tensor, domains: tuple[str, ...], experts: tuple[int, ...]
    ) -> Tensor | None:
        """Bool [T, E]: may this token choose this expert? Copies take their owner's tokens only."""
        if self.mask is None or not self.mask.copies:
            return None
        self._know(domains, experts)
        if self._owner_E is None:
            copies = self.mask.copies
            owner = [domains.index(copies[n]) if n in copies else -1 for n in experts]
            self._owner_E = torch.tensor(owner, device=domain_T.device)
        return (self._owner_E < 0) | (self._owner_E == domain_T.unsqueeze(1))

    def _know(self, domains: tuple[str, ...], experts: tuple[int, ...]) -> None:
        if (domains, experts) != self._known:
            self._known, self._trainable_GE, self._owner_E = (domains, experts), None, None
