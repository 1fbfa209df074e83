"""The linear router: one row and one bias per expert, so that it grows by whole parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.contract import InputError
from workers.moe.growth.growable import with_zero
from workers.moe.routers.base import Router, RouterContext


class LinearRouter(Router):
    """One affine score per expert, r_e(x) = w_e x + b_e."""

    offset: Tensor
    anneal: Tensor
    gates: tuple[int, ...] = ()
    """Rows of an expert, where a subclass has more than one (``domain_gates``)."""
    directions: ClassVar[bool] = False
    """Whether only the direction of a row counts."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of a linear router."""

        kind: str = "linear"
        bias: bool = True
        """Whether each expert has a trained bias; without it, shifts of copies are kept beside
        the parameters and are not trained."""

    def __init__(self, config: Config, inputs: int) -> None:
        super().__init__()
        self.inputs, self.biased = inputs, config.bias
        self.rows = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        # added to the logits; where `anneal` is above 0 it rises by it with every training step
        # until it is 0
        self.register_buffer("offset", torch.zeros(0))
        self.register_buffer("anneal", torch.zeros(0))
        self._shifted = False

    @property
    def like(self) -> Tensor:
        """A tensor on the device and of the type of the rows."""
        return next(iter(self.rows.values()), self.offset)

    def add(self, expert: int) -> None:
        """A new row for ``expert``, drawn as torch draws a Linear(inputs, 1)."""
        bound = 1 / math.sqrt(self.inputs)
        row = torch.empty(*self.gates, self.inputs).uniform_(-bound, bound)
        like = self.like
        self.rows[str(expert)] = nn.Parameter(row.to(like))
        if self.biased:
            bias = torch.empty(self.gates).uniform_(-bound, bound)
            self.biases[str(expert)] = nn.Parameter(bias.to(like))
        self.offset = with_zero(self.offset)
        self.anneal = with_zero(self.anneal)

    def remove(self, expert: int) -> None:
        """Forget the row of ``expert``."""
        kept = [i for i, name in enumerate(self.rows) if name != str(expert)]
        self.offset, self.anneal = self.offset[kept], self.anneal[kept]
        del self.rows[str(expert)]
        if self.biased:
            del self.biases[str(expert)]

    @torch.no_grad()
    def split(self, parent: int, child: int, amount: float) -> None:
        """Give the child the parent's row, and take ``amount`` off the logits of both."""
        self.rows[str(child)].copy_(self.rows[str(parent)])
        self.shift_bias(parent, -amount)
        if self.biased:
            self.biases[str(child)].copy_(self.biases[str(parent)])
        to, of = self._place(child), self._place(parent)
        self.offset[to], self.anneal[to] = self.offset[of], self.anneal[of]

    @torch.no_grad()
    def shift_bias(self, expert: int, amount: float) -> None:
        """Add ``amount`` to the expert's logits for good."""
        if self.biased:
            self.biases[str(expert)].add_(amount)
        else:
            self.offset[self._place(expert)] += amount
            self._shifted = True

    @torch.no_grad()
    def suppress(self, expert: int, offset: float, steps: int) -> None:
        """Zero row for ``expert`` (a direction stays, as 0 has none), its logit lowered by
        ``offset``, back to 0 within ``steps``."""
        for parameter in () if self.directions else self.parameters_of(expert):
            parameter.zero_()
        place = self._place(expert)
        self.offset[place] = -offset
        self.anneal[place] = offset / steps
        self._shifted = True

    @torch.no_grad()
    def aim(self, expert: int, features_D: Tensor) -> None:
        """The row points where they do, one long; bias and shift are 0."""
        for parameter in self.parameters_of(expert):
            parameter.zero_()
        self.rows[str(expert)].copy_(functional.normalize(features_D, dim=0))
        place = self._place(expert)
        self.offset[place] = self.anneal[place] = 0.0

    def start_from(self, rows_ED: Tensor, biases_E: Tensor | None) -> None:
        """See ``Router.start_from``; shifts begin at 0."""
        assert self.biased == (biases_E is not None)
        for place, name in enumerate(self.rows):
            self.rows[name] = nn.Parameter(rows_ED[place])
            if biases_E is not None:
                self.biases[name] = nn.Parameter(biases_E[place])
        self.offset, self.anneal = (rows_ED.new_zeros(len(rows_ED)) for _ in range(2))

    def as_linear(self) -> tuple[Tensor, Tensor | None]:
        """See ``Router.as_linear``; shifts beside the parameters have no place in it."""
        if self.offset.any():
            raise InputError(
                "logits of copied or suppressed experts are shifted, and a linear router without "
                "biases has no place for that; grow with initialiser random, or take an earlier "
                "stage"
            )
        rows_ED = torch.stack(list(self.rows.values()))
        return rows_ED, torch.stack(list(self.biases.values())) if self.biased else None

    def parameters_of(self, expert: int) -> list[nn.Parameter]:
        """The row of ``expert``, and its bias if it has one."""
        row = [self.rows[str(expert)]]
        return [*row, self.biases[str(expert)]] if self.biased else row

    def reading(self) -> list[nn.Parameter] | None:
        """The rows; a subclass may read by anything and says so itself."""
        return list(self.rows.values()) if type(self) is LinearRouter else None

    def bias(self, expert: int) -> Tensor:
        """The trained bias of ``expert``, a scalar; 0 without one."""
        return self.biases[str(expert)] if self.biased else self.offset.new_zeros(())

    def _place(self, expert: int) -> int:
        return list(self.rows).index(str(expert))

    def forward(self, x_TD: Tensor, context: RouterContext) -> Tensor:
        """Logits [T, E] in the order in which the experts were added."""
        bias_E = torch.stack(list(self.biases.values())) if self.biased else None
        logits_TE = functional.linear(x_TD, torch.stack(list(self.rows.values())), bias_E)
        return self.shift(logits_TE, context)

    def shift(self, logits_TE: Tensor, context: RouterContext) -> Tensor:
        """The logits plus their offsets, of which some rise once a training step."""
        if self._shifted:
            if self.training and torch.is_grad_enabled() and context.first:
                risen = (self.offset + self.anneal).clamp(max=0)
                self.offset = torch.where(self.anneal > 0, risen, self.offset)
            logits_TE = logits_TE + self.offset.to(logits_TE.dtype)
        return logits_TE

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        load: Callable[..., None] = super()._load_from_state_dict
        load(*args, **kwargs)
        self._shifted = bool(self.offset.any())
