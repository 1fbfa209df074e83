"""What one bank knows of domains: which experts each may train, and which its tokens chose.

Knows no model and no cluster; ``bank`` asks it in every forward, ``specialise`` sets it.
Letters: T tokens, B samples, E experts, G domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workers.contract import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """Gradient mask of one bank: 1 where a domain trains an expert (DES-MoE, equation 6).

    Experts past the end of a row were born after it was made: every domain trains them.
    """

    version: int
    domains: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    """Domain -> 0 or 1 for each expert."""
    copies: Mapping[int, str] = field(default_factory=dict)
    """Copy -> the domain whose tokens alone choose it in training, where they are exclusive."""

    @property
    def binding(self) -> bool:
        """Whether anything is masked at all."""
        return bool(self.copies) or not all(all(row) for row in self.rows)

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


class DomainGuide:
    """Per bank: the mask, the domains of the batch under way, and the counts since the last read.

    Does nothing, and costs nothing, until it is told the domains of a batch.
    """

    def __init__(self) -> None:
        self.mask: Mask | None = None
        self.domains: tuple[str, ...] = ()
        self.counts_GE = torch.zeros(0, 0, dtype=torch.int64)
        self.tokens_G = torch.zeros(0, dtype=torch.int64)
        self._index_B: Tensor | None = None
        self._mask_GE: Tensor | None = None
        self._owner_E: Tensor | None = None
        self._learnt_E: Tensor | None = None

    def point(self, domains: tuple[str, ...], index_B: Tensor | None) -> None:
        """Say which domain (place in ``domains``) each sample of the next forward belongs to."""
        if domains != self.domains:
            self.domains = domains
            self.reset(0)
        self._index_B = index_B

    def set_mask(self, mask: Mask | None) -> None:
        """Train under another mask from now on."""
        self.mask, self._mask_GE, self._owner_E = mask, None, None

    def index(self, tokens: int) -> Tensor | None:
        """Domain of each token [T]; None where nobody said. A sample's tokens lie together."""
        if self._index_B is None or tokens == 0:
            return None
        assert tokens % len(self._index_B) == 0, (tokens, len(self._index_B))
        repeat = tokens // len(self._index_B)
        return self._index_B if repeat == 1 else self._index_B.repeat_interleave(repeat)

    def learning(self, index_T: Tensor, experts: int) -> Tensor | None:
        """Bool [T, E]: may this expert learn from this token (equation 8)? None = all may."""
        if self.mask is None or not self.mask.binding:
            return None
        if self._mask_GE is None or self._mask_GE.shape[1] != experts:
            self._mask_GE = self._by_domain(experts).to(index_T.device)
        return self._mask_GE[index_T]

    def allowed(self, index_T: Tensor, experts: int) -> Tensor | None:
        """Bool [T, E]: may this token choose this expert? Copies take their owner's tokens only."""
        if self.mask is None or not self.mask.copies:
            return None
        if self._owner_E is None or len(self._owner_E) != experts:
            owner = [-1] * experts
            for expert, domain in self.mask.copies.items():
                owner[expert] = self.domains.index(domain)
            self._owner_E = torch.tensor(owner, device=index_T.device)
        return (self._owner_E < 0) | (self._owner_E == index_T.unsqueeze(1))

    def note(
        self,
        index_T: Tensor,
        chosen_TE: Tensor,
        learning_TE: Tensor | None,
        ran_TE: Tensor | None = None,
    ) -> None:
        """Count the tokens of each domain that chose each expert; remember which experts learn.

        ``ran``: the experts that each token passed through, where they are more than it chose.
        """
        domains, experts = len(self.domains), chosen_TE.shape[1]
        if self.counts_GE.shape != (domains, experts):
            grown = self.counts_GE.new_zeros((domains, experts))
            grown[: self.counts_GE.shape[0], : self.counts_GE.shape[1]] = self.counts_GE
            self.counts_GE = grown
        self.counts_GE = self.counts_GE.to(index_T.device)
        self.tokens_G = self.tokens_G.to(index_T.device)
        self.counts_GE.index_add_(0, index_T, chosen_TE.to(torch.int64))
        self.tokens_G.index_add_(0, index_T, torch.ones_like(index_T))
        if learning_TE is not None:
            learnt_E = ((chosen_TE if ran_TE is None else ran_TE) & learning_TE).any(0)
            self._learnt_E = learnt_E if self._learnt_E is None else self._learnt_E | learnt_E

    def take_learnt(self) -> Tensor | None:
        """Bool [E]: experts that some token of the last forwards may teach; None = not masked."""
        learnt_E, self._learnt_E = self._learnt_E, None
        return learnt_E

    def take_counts(self, experts: int) -> Tensor:
        """Since the last call: int64 [G, experts + 1], by domain its tokens that chose each expert,
        and in the last column all of its tokens."""
        counted = self.counts_GE.new_zeros(len(self.domains), experts + 1)
        counted[:, : self.counts_GE.shape[1]] = self.counts_GE
        counted[:, -1] = self.tokens_G
        self.reset(self.counts_GE.shape[1])
        return counted

    def reset(self, experts: int) -> None:
        """Start counting anew."""
        self.counts_GE = torch.zeros(len(self.domains), experts, dtype=torch.int64)
        self.tokens_G = torch.zeros(len(self.domains), dtype=torch.int64)

    def _by_domain(self, experts: int) -> Tensor:
        """The mask's rows in the order of the batch's domains, wide enough for ``experts``."""
        assert self.mask is not None
        rows: dict[str, Sequence[int]] = dict(zip(self.mask.domains, self.mask.rows, strict=True))
        free = [1] * experts
        found = [[*rows.get(domain, free), *free][:experts] for domain in self.domains]
        return torch.tensor(found, dtype=torch.bool)
