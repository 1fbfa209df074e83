"""One recurrent and one static expert under a gate that sends each step to one of them.

Letters: B sequences, S steps, D inputs, O outputs, N steps of all sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import InputError, LaneSettings, derive_seed
from workers.moe.growth.schedules import EVERYWHERE, Place
from workers.moe.layers.base import Layer
from workers.moe.perceptron import Perceptron
from workers.moe.seeding import seeded
from workers.moe.selection import exact
from workers.tables import Problem


class RecurrentOrStaticLayer(Layer):
    """y_t = p_k(x_t) E_k(x_t), k = argmax p: a GRU or an MLP for each step (Hecto, 2506.22919).

    p = softmax(W x_t + b) in float32; the factor p_k lets the gate learn (top-1 of Switch, arXiv
    2101.03961). The GRU's state h (arXiv 1406.1078), also its output, moves at the steps that
    chose it and is kept over the others, which it never sees. The state is 0 where a sequence
    begins, so the layer is causal. Two experts, never more: it does not grow.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings of the layer."""

        kind: str = "recurrent_or_static"
        hidden: int = 64
        """Hidden units of the static expert, between two linear maps."""

        def __post_init__(self) -> None:
            if self.hidden < 1:
                raise ValueError(f"hidden must be at least 1, got {self.hidden}")

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """A hidden layer of a model that acts sees one step at a time."""
            if lane.acts:
                allowed = "in lanes that act use core = 'recurrent_or_static', which has a memory"
                return [Problem("kind", "the layer carries nothing between steps", allowed)]
            return []

    def __init__(
        self,
        config: Config,
        inputs: int,
        outputs: int,
        experts: int = 1,
        max_experts: int | None = None,
        seed: int = 0,
        *,
        place: Place = EVERYWHERE,
    ) -> None:
        super().__init__()
        with seeded(derive_seed(seed, "gate")):
            self.gate = nn.Linear(inputs, 2)
        with seeded(derive_seed(seed, "recurrent")):
            self.recurrent = nn.GRUCell(inputs, outputs)
        with seeded(derive_seed(seed, "static")):
            self.static = Perceptron()
            self.static.draw([inputs, config.hidden, outputs])

    def forward(self, x_BSD: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, O], each sequence from the state 0; raises InputError on rows."""
        if x_BSD.dim() < 3:
            raise InputError(
                "layer recurrent_or_static reads sequences [B, S, D], and this model hands it rows "
                f"of shape {tuple(x_BSD.shape)}; use it in a model of sequences (decoder)"
            )
        x = x_BSD.flatten(0, -3)
        begins = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        state = x.new_zeros(len(x), self.recurrent.hidden_size)
        return self.over_time(x, state, begins)[0].unflatten(0, x_BSD.shape[:-2])

    def over_time(
        self, x_BSD: Tensor, state_BO: Tensor, begins_BS: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs [B, S, O] and the state after the last step [B, O]; ``begins``: steps before
        which the state is set to 0, bool."""
        weight_BS, recalls_BS = self.gates(x_BSD)
        outputs = self.static(x_BSD)
        recalled = []
        steps = zip(x_BSD.unbind(1), recalls_BS.unbind(1), begins_BS.unbind(1), strict=True)
        for x_BD, recalls_B, begins_B in steps:
            state_BO = state_BO.masked_fill(begins_B[:, None], 0.0)
            moved_BO = self.recurrent(x_BD, state_BO)
            state_BO = torch.where(recalls_B[:, None], moved_BO, state_BO)
            recalled.append(state_BO)
        y_BSO = torch.where(recalls_BS[..., None], torch.stack(recalled, 1), outputs)
        return y_BSO * weight_BS[..., None].to(y_BSO.dtype), state_BO

    def gates(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of the chosen expert [B, S], and whether that is the recurrent one."""
        p_BS2 = exact(self.gate(x_BSD)).softmax(-1)
        weight_BS, chosen_BS = p_BS2.max(-1)
        return weight_BS, chosen_BS == 0
