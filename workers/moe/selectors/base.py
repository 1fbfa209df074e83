"""What a selector must offer, and the small functions that several of them need.

Letters: T tokens, E experts, D inputs, O outputs, S rows.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Bank(Protocol):
    """The experts of one layer, in the two ways in which a selector may run them."""

    def mixture(self, x_TD: Tensor, gates_TE: Tensor, frozen: bool = False) -> Tensor:
        """All experts on all tokens, weighted, [T, O]; ``frozen`` = gradient to the gates only."""
        ...

    def on_rows(self, rows_SD: Tensor, offsets: Tensor) -> Tensor:
        """Each expert on its own rows ``offsets[e]:offsets[e + 1]``, [S, O]."""
        ...


class Selector(Protocol):
    """Turns logits into weights and has the bank compute what is needed."""

    temperature: float

    def __init__(self, config: Any) -> None: ...

    def active(self, experts: int) -> int:
        """Experts that one token passes through, of ``experts`` live ones."""
        ...

    def mix(
        self,
        bank: Bank,
        x_TD: Tensor,
        logits_TE: Tensor,
        *,
        grad_max_k: int | None,
        allowed_TE: Tensor | None,
        training: bool,
    ) -> tuple[Tensor, Tensor]:
        """Output [T, O] and gate weights [T, E].

        ``grad_max_k``: only the k experts with the largest logits get a gradient, forward values
        unchanged. ``allowed`` (bool) takes experts out of the choice.
        """
        ...


def largest(logits_TE: Tensor, k: int) -> Tensor:
    """Bool [T, E]: is this one of the token's k largest logits? Exactly k per token."""
    chosen_TK = logits_TE.detach().topk(k, dim=-1).indices
    return torch.zeros_like(logits_TE, dtype=torch.bool).scatter_(1, chosen_TK, True)
