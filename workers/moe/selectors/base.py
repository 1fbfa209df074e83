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
        """All experts on all tokens, weighted, [T, O]; ``frozen`` = none to their parameters."""
        ...

    def on_rows(self, rows_SD: Tensor, offsets: Tensor, learning_S: Tensor | None = None) -> Tensor:
        """Each expert on its own rows ``offsets[e]:offsets[e + 1]``, [S, O].

        ``learning`` (bool) leaves rows out of the gradients of the experts' parameters.
        """
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
        learning_TE: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Output [T, O] and gate weights [T, E].

        ``grad_max_k``: only the k experts with the largest logits get a gradient, forward values
        unchanged. ``allowed`` (bool) takes experts out of the choice. ``learning`` (bool): which
        experts' parameters learn from a token (DES-MoE, arXiv 2509.16882, equation 8); values
        and the gradients of router and input are unchanged.
        """
        ...


def largest(logits_TE: Tensor, k: int) -> Tensor:
    """Bool [T, E]: is this one of the token's k largest logits? Exactly k per token."""
    chosen_TK = logits_TE.detach().topk(k, dim=-1).indices
    return torch.zeros_like(logits_TE, dtype=torch.bool).scatter_(1, chosen_TK, True)
