"""Cores: what an actor-critic carries from one step of an episode to the next. Never grown.

Letters: B environments, T steps, D numbers of a step, S numbers carried along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workers.moe.layers import RecurrentOrStaticLayer
from workers.moe.seeding import seeded


class Past(NamedTuple):
    """State of a recurrent core at the beginning of B sequences of T steps."""

    state: Tensor
    """State of the core before the first step [B, S]."""
    begins: Tensor
    """Steps that are the first of an episode, for which the state is zero [B, T] (bool)."""


class NoCore(nn.Module):
    """Nothing is carried along: each observation is answered by itself."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """There is nothing to set."""

        kind: str = "none"

    def __init__(self, config: Config, inputs: int, seed: int) -> None:
        super().__init__()
        self.outputs, self.state_size = inputs, 0

    def forward(self, x_BTD: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """What came in."""
        return x_BTD, past.state


class GRU(nn.Module):
    """A gated recurrent unit (arXiv 1406.1078) that forgets everything when an episode ends."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the recurrent core."""

        kind: str = "gru"
        size: int = 128
        """Numbers carried along, which are also what the hidden layers read."""

        def __post_init__(self) -> None:
            if self.size < 1:
                raise ValueError(f"size must be at least 1, got {self.size}")

    def __init__(self, config: Config, inputs: int, seed: int) -> None:
        super().__init__()
        self.outputs = self.state_size = config.size
        with seeded(seed):
            self.gru = nn.GRU(inputs, config.size, batch_first=True)
            named = dict(self.gru.named_parameters())
            nn.init.normal_(named["weight_ih_l0"], std=1.0 / math.sqrt(inputs))
            for gate in named["weight_hh_l0"].detach().chunk(3):
                nn.init.orthogonal_(gate)
            for name in ("bias_ih_l0", "bias_hh_l0"):
                nn.init.zeros_(named[name])

    def forward(self, x_BTD: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """Outputs [B, T, S], and the state after the last step [B, S].

        The steps between two at which some episode begins are one call of the fused unit.
        """
        state, begins = past
        starts = begins.any(0).nonzero().flatten().tolist()
        parts = []
        for start, stop in pairwise(sorted({0, x_BTD.shape[1], *starts})):
            state = state.masked_fill(begins[:, start, None], 0.0)
            part, last = self.gru(x_BTD[:, start:stop], state.unsqueeze(0).contiguous())
            parts.append(part)
            state = last.squeeze(0)
        return torch.cat(parts, 1), state


class RecurrentOrStatic(nn.Module):
    """A memory expert (GRU) and a reactive one (MLP) under a top-1 gate (Hecto, 2506.22919).

    The layer ``recurrent_or_static`` carried through an episode: a step goes to one of the two, and
    what is remembered moves only at the steps that went to the memory.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the core."""

        kind: str = "recurrent_or_static"
        size: int = 128
        """Numbers carried along, which are also what the hidden layers read."""
        hidden: int = 128
        """Hidden units of the static expert."""

        def __post_init__(self) -> None:
            if self.size < 1 or self.hidden < 1:
                raise ValueError(
                    f"size and hidden must be at least 1, got {self.size} and {self.hidden}"
                )

    def __init__(self, config: Config, inputs: int, seed: int) -> None:
        super().__init__()
        self.outputs = self.state_size = config.size
        settings = RecurrentOrStaticLayer.Config(hidden=config.hidden)
        self.experts = RecurrentOrStaticLayer(settings, inputs, config.size, seed=seed)

    def forward(self, x_BTD: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """Outputs [B, T, S], and the state after the last step [B, S]."""
        return self.experts.over_time(x_BTD, past.state, past.begins)


CORES: dict[str, type] = {"none": NoCore, "gru": GRU, "recurrent_or_static": RecurrentOrStatic}
