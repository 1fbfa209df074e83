"""ER-ACE: replay whose incoming samples compete with each other's classes only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.contract import LaneSettings
from workers.methods.memory import Columns, classes_of, needs_classes
from workers.methods.online import Online, Targets, joined, weights
from workers.supervised.objectives import Objective
from workers.tables import Problem


class ErAce(Online):
    """Experience replay with asymmetric cross-entropy (arXiv 2104.05025, equations 3 and 4).

    ``L = L_ce(incoming, classes in the incoming batch) + L_ce(remembered, classes seen so far)``,
    where ``L_ce(., K)`` is the mean cross entropy of a softmax over the outputs of the classes K:
    a step on new classes does not push down the outputs of old ones. The incoming batch is the
    step's whole one, however many workers share it.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Online.Config):
        """Settings of the buffer."""

        kind: str = "er_ace"

        def problems(self, lane: LaneSettings) -> list[Problem]:
            """Classes are what it is about."""
            return needs_classes(lane, "kind", f"method {self.kind!r}")

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self._seen = torch.empty(0, dtype=torch.int64)

    def targets(self, y: Tensor, uses: list[Columns]) -> Targets:
        label_B = classes_of(self.objective, y)
        present = label_B.unique()
        self._seen = torch.cat([self._seen, present.cpu()]).unique()
        weight_B = weights(y, uses, [1.0, 1.0])
        incoming_B = torch.arange(len(weight_B), device=y.device) < len(y)
        allowed_BK = torch.zeros(len(weight_B), int(self._seen.max()) + 1, dtype=torch.bool)
        allowed_BK = allowed_BK.to(y.device)
        allowed_BK[:, self._seen.to(y.device)] = True
        only_K = torch.zeros_like(allowed_BK[0])
        only_K[present] = True
        allowed_BK &= only_K | ~incoming_B[:, None]
        return Targets(joined(y, uses), {"weight": weight_B, "allowed": allowed_BK})

    def loss(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Any) -> Tensor:
        assert self.objective is not None
        outputs_BC, allowed_BK = model(x), y.more["allowed"]
        allowed_BC = torch.zeros_like(outputs_BC, dtype=torch.bool)
        allowed_BC[:, : allowed_BK.shape[1]] = allowed_BK
        losses_B = self.objective.losses(outputs_BC.masked_fill(~allowed_BC, -torch.inf), y.y)
        return (y.more["weight"] * losses_B).mean()

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "classes": self._seen.clone()}

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        rest = dict(state)
        self._seen = rest.pop("classes").cpu().clone()
        super().load_state(rest, model)
