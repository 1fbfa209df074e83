"""The linear router: one row and one bias per expert, so that it grows by whole parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.moe.growth.growable import with_zero
from workers.moe.routers.base import Router, RouterContext


class LinearRouter(Router):
    """One affine score per expert, r_e(x) = w_e x + b_e."""

    offset: Tensor
    anneal: Tensor

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a linear router (none)."""

        kind: str = "linear"

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.rows = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        # added to the logits; rises by `anneal` with every training step until it is 0
        self.register_buffer("offset", torch.zeros(0))
        self.register_buffer("anneal", torch.zeros(0))
        self._annealing = False

    @property
    def like(self) -> Tensor:
        """A tensor on the device and of the type of the rows."""
        return next(iter(self.rows.values()), self.offset)

    def add(self, expert: int) -> None:
        """A new row for ``expert``, drawn as torch draws a Linear(inputs, 1)."""
        bound = 1 / math.sqrt(self.inputs)
        row = torch.empty(self.inputs).uniform_(-bound, bound)
        bias = torch.empty(()).uniform_(-bound, bound)
        like = self.like
        self.rows[str(expert)] = nn.Parameter(row.to(like))
        self.biases[str(expert)] = nn.Parameter(bias.to(like))
        self.offset = with_zero(self.offset)
        self.anneal = with_zero(self.anneal)

    def remove(self, expert: int) -> None:
        """Forget the row of ``expert``."""
        kept = [i for i, name in enumerate(self.rows) if name != str(expert)]
        self.offset, self.anneal = self.offset[kept], self.anneal[kept]
        del self.rows[str(expert)], self.biases[str(expert)]

    @torch.no_grad()
    def split(self, parent: int, child: int, amount: float) -> None:
        """Give the child the parent's row, and take ``amount`` off both biases."""
        self.rows[str(child)].copy_(self.rows[str(parent)])
        self.biases[str(parent)].sub_(amount)
        self.biases[str(child)].copy_(self.biases[str(parent)])
        ids = list(self.rows)
        self.offset[ids.index(str(child))] = self.offset[ids.index(str(parent))]
        self.anneal[ids.index(str(child))] = self.anneal[ids.index(str(parent))]

    @torch.no_grad()
    def shift_bias(self, expert: int, amount: float) -> None:
        """Add ``amount`` to the expert's bias."""
        self.biases[str(expert)].add_(amount)

    @torch.no_grad()
    def suppress(self, expert: int, offset: float, steps: int) -> None:
        """Zero row for ``expert``, its logit lowered by ``offset``, back to 0 within ``steps``."""
        self.rows[str(expert)].zero_()
        self.biases[str(expert)].zero_()
        place = list(self.rows).index(str(expert))
        self.offset[place] = -offset
        self.anneal[place] = offset / steps
        self._annealing = True

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E] in the order in which the experts were added."""
        rows, biases = list(self.rows.values()), list(self.biases.values())
        logits_TE = functional.linear(x_TD, torch.stack(rows), torch.stack(biases))
        return self.shift(logits_TE, context)

    def shift(self, logits_TE: Tensor, context: RouterContext) -> Tensor:
        """The logits plus the offsets of suppressed experts, which rise once a training step."""
        if self._annealing:
            if self.training and torch.is_grad_enabled() and context.first:
                self.offset = (self.offset + self.anneal).clamp(max=0)
            logits_TE = logits_TE + self.offset.to(logits_TE.dtype)
        return logits_TE

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        load: Callable[..., None] = super()._load_from_state_dict
        load(*args, **kwargs)
        self._annealing = bool(self.offset.any())
