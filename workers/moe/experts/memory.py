"""The memory expert: answers from what the layer was asked and answered before.

Letters: T tokens, M places, J neighbours, D inputs, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.moe.experts.base import Expert
from workers.tables import Problem


class MemoryExpert(Expert):
    """Kernel average of remembered outputs of the layer: no parameters, a gate may choose it.

    ``E(x) = sum_j K(x, x_j) y_j / sum_j K(x, x_j)`` over the ``neighbours`` nearest of the
    remembered inputs, ``K = exp(-|x - x_j|^2 / 2 h^2)``, h^2 the mean of their squared distances;
    the remembered sample itself where there is one only, 0 while there is none. Retrieval as one
    more choice of the gate after ExpertRAG (arXiv 2504.08744), which gives no such form. The memory
    is a reservoir sample (Vitter 1985, algorithm R) of the tokens of all training steps so far,
    each with what the whole layer answered then; it is a buffer and travels with the model. An
    expert that is frozen, or that the phase does not train, remembers no more.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Size and reach of the memory."""

        kind: str = "memory"
        places: int = 256
        """Tokens that are remembered."""
        neighbours: int = 8
        """Of them, how many answer."""

        def __post_init__(self) -> None:
            if not 1 <= self.neighbours <= self.places:
                raise ValueError(
                    "neighbours must be at least 1 and at most places, got "
                    f"{self.neighbours} of {self.places}"
                )

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Each worker, runner and second pass would remember something else."""
            again = getattr(lane.sections["training"], "checkpoint_activations", False)
            found = []
            if lane.workers > 1:
                found.append(f"{lane.workers} workers, which see other tokens each")
            if lane.acts:
                found.append("a lane that acts, whose runners would answer by an older memory")
            if again:
                found.append("checkpoint_activations, whose second pass meets another memory")
            allowed = "expert 'memory' needs one worker, a supervised lane and kept activations"
            return [Problem("kind", one, allowed) for one in found]

    watches: ClassVar[bool] = True

    inputs_MD: Tensor
    outputs_MO: Tensor
    met: Tensor

    def __init__(self, config: Config, inputs: int, outputs: int, width: int = 0) -> None:
        super().__init__(config, inputs, outputs, width)
        self.config = config
        self.register_buffer("inputs_MD", torch.zeros(config.places, inputs))
        self.register_buffer("outputs_MO", torch.zeros(config.places, outputs))
        self.register_buffer("met", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, D] -> [rows, O], in float32 inside."""
        x_TD, places = x.float(), self.config.places
        empty_M = torch.arange(places, device=x.device) >= self.met
        with torch.no_grad():
            distance_TM = torch.cdist(x_TD, self.inputs_MD).masked_fill(empty_M, float("inf"))
            near_TJ = distance_TM.topk(self.config.neighbours, largest=False).indices
            empty_TJ = empty_M[near_TJ]
        square_TJ = (x_TD.unsqueeze(1) - self.inputs_MD[near_TJ]).square().sum(-1)
        known_T1 = (~empty_TJ).sum(1, keepdim=True).clamp_min(1)
        h2_T1 = square_TJ.detach().masked_fill(empty_TJ, 0.0).sum(1, keepdim=True) / known_T1
        k_TJ = (-square_TJ / (2 * h2_T1.clamp_min(1e-12))).masked_fill(empty_TJ, -1e30)
        k_TJ = torch.softmax(k_TJ, 1) * ~empty_TJ
        y_TO = (k_TJ.unsqueeze(-1) * self.outputs_MO[near_TJ]).sum(1)
        return y_TO.to(x.dtype)

    @torch.no_grad()
    def watch(self, x_TD: Tensor, y_TO: Tensor) -> None:
        """Offer every token to the reservoir, in order; buffers are replaced, not changed."""
        if x_TD.is_meta:
            return
        count, places = len(x_TD), self.config.places
        position = self.met.cpu() + torch.arange(count)
        chance = torch.rand(count, dtype=torch.float64)
        drawn = torch.minimum((chance * (position + 1)).long(), position)
        slot = torch.where(position < places, position, drawn)
        last = torch.full((places,), -1).scatter_reduce(
            0, slot[slot < places], torch.arange(count)[slot < places], "amax"
        )  # a later token replaces an earlier one
        new = (last >= 0).nonzero().squeeze(1).to(x_TD.device)
        source = last.to(x_TD.device)[new]
        self.inputs_MD = self.inputs_MD.index_copy(0, new, x_TD[source].float())
        self.outputs_MO = self.outputs_MO.index_copy(0, new, y_TO[source].float())
        self.met = self.met + count
