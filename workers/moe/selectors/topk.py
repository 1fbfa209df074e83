"""The top-k selector: only the chosen experts run, on their own tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import ops
from workers.moe.selectors.base import Bank


class TopK:
    """The k largest logits of each token, weighted by a softmax over the chosen."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the top-k selector."""

        kind: str = "topk"
        k: int = 2
        """Experts per token (all of them while there are fewer)."""
        temperature: float = 1.0
        """Logits are divided by it before the choice and the softmax."""
        noise: float = 0.0
        """Standard deviation of the Gaussian noise on the logits in training."""

        def __post_init__(self) -> None:
            if self.k < 1 or self.temperature <= 0 or self.noise < 0:
                raise ValueError(
                    "k must be at least 1, temperature above 0 and noise not negative, got "
                    f"{self.k}, {self.temperature} and {self.noise}"
                )

    def __init__(self, config: Config) -> None:
        self.k, self.temperature, self.noise = config.k, config.temperature, config.noise

    def active(self, experts: int) -> int:
        """k, or all while there are fewer."""
        return min(self.k, experts)

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
        """See ``Selector.mix``; a token that is allowed no expert gets 0."""
        noisy = training and self.noise > 0
        selected_TK, weights_TK, _ = ops.route(
            logits_TE,
            selector="topk",
            k=self.k,
            temperature=self.temperature,
            noise_TE=self.noise * torch.randn_like(logits_TE) if noisy else None,
            allowed_TE=allowed_TE,
        )
        rows_SD, position_TK, offsets = ops.permute(x_TD, selected_TK, logits_TE.shape[1])
        learning_S = _learning_rows(learning_TE, selected_TK, position_TK)
        rows_SO = bank.on_rows(rows_SD, offsets, learning_S)
        if grad_max_k is not None and grad_max_k < selected_TK.shape[1]:
            rows_SO = _detach_late_slots(rows_SO, position_TK, grad_max_k)
        gates_TE = torch.zeros_like(logits_TE)
        gates_TE = gates_TE.scatter_add(1, selected_TK.clamp(min=0), weights_TK)
        return ops.combine(rows_SO, position_TK, weights_TK), gates_TE


def _detach_late_slots(rows_SO: Tensor, position_TK: Tensor, kept: int) -> Tensor:
    """Slots are sorted by score: rows of slots after the first ``kept`` lose their gradient."""
    late_S = position_TK[:, kept:].reshape(-1)
    detached_S = torch.zeros(rows_SO.shape[0] + 1, dtype=torch.bool, device=rows_SO.device)
    detached_S[late_S.where(late_S >= 0, rows_SO.shape[0])] = True
    return torch.where(detached_S[:-1].unsqueeze(1), rows_SO.detach(), rows_SO)


def _learning_rows(
    learning_TE: Tensor | None, selected_TK: Tensor, position_TK: Tensor
) -> Tensor | None:
    """Bool [S]: may the row's expert learn from it? Rows of unused slots are True."""
    if learning_TE is None:
        return None
    rows = position_TK.numel()
    learning_TK = learning_TE.gather(1, selected_TK.clamp(min=0))
    place_TK = position_TK.where(position_TK >= 0, rows)  # unused slots share a row past the end
    learning_S = torch.ones(rows + 1, dtype=torch.bool, device=position_TK.device)
    learning_S[place_TK.reshape(-1)] = learning_TK.reshape(-1)
    return learning_S[:-1].contiguous()
