"""What routers do where: gate weights by floor of the game, and step by step in one episode.

Figures after DynamicMoE (arXiv 2511.18987): when an agent enters another floor, weight should
move to another expert. Knows no algorithm and draws nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.models.acting import ActingModel
from workers.moe.routed import recording, take_gate_weights
from workers.rl.building import sample_actions
from workers.rl.dlpack import as_tensor
from workers.rl.environments.base import BatchedEnvironment

NOWHERE = -1
"""Floor of an environment whose steps do not count."""

Gates = dict[str, list[float]]
"""Layer -> gate weight of each expert."""


class Routing:
    """Gate weights of a model, summed up by floor."""

    def __init__(self, model: ActingModel) -> None:
        self.model = model
        self._sums: dict[tuple[str, int], NDArray[np.float64]] = {}
        self._counts: dict[int, int] = defaultdict(int)

    def step(
        self, observations: Tensor, state: Tensor, floors: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """The model's step; what its routers did counts for the floor each one is on.

        Environments whose floor is NOWHERE are answered, but not counted.
        """
        answers: list[tuple[Tensor, Tensor]] = []
        places = []
        for floor in np.unique(floors):
            place = torch.from_numpy(np.flatnonzero(floors == floor))
            with recording(self.model):
                answers.append(self.model.step(observations[place], state[place]))
                if floor != NOWHERE:
                    self._count(int(floor), len(place), take_gate_weights(self.model))
            places.append(place)
        order = torch.cat(places).argsort()
        logits, after = (torch.cat(parts)[order] for parts in zip(*answers, strict=True))
        return logits, after

    def _count(self, floor: int, samples: int, gates: Gates) -> None:
        self._counts[floor] += samples
        for layer, weights in gates.items():
            added = samples * np.array(weights)
            self._sums[layer, floor] = self._sums.get((layer, floor), np.zeros(1)) + added

    def total(self) -> Gates:
        """Mean gate weights over all floors."""
        steps = sum(self._counts.values())
        sums: dict[str, NDArray[np.float64]] = {}
        for (layer, _), added in self._sums.items():
            sums[layer] = sums.get(layer, np.zeros(1)) + added
        return {layer: (added / steps).tolist() for layer, added in sums.items()}

    def by_floor(self) -> dict[str, float]:
        """``gate/<layer>/floor<f>/<expert>`` -> mean weight there; ``steps/floor<f>``."""
        figures = {f"steps/floor{floor}": float(n) for floor, n in sorted(self._counts.items())}
        for (layer, floor), sums in sorted(self._sums.items()):
            for expert, weight in enumerate(sums / self._counts[floor]):
                figures[f"gate/{layer}/floor{floor}/{expert}"] = float(weight)
        return figures


@dataclass(frozen=True, slots=True)
class Trace:
    """One episode: floor [T] and gate weights [T][experts] of each layer, step by step."""

    floors: list[int]
    gates: dict[str, list[list[float]]]


@torch.inference_mode()
def trace(model: ActingModel, engine: BatchedEnvironment, *, max_steps: int, seed: int) -> Trace:
    """Play the first environment's first episode and note every step of the routers."""
    generator = torch.Generator().manual_seed(seed)
    observations, floors = engine.reset(), []
    state = model.initial_state(engine.num_envs)
    gates: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(max_steps):
        seen = as_tensor(observations).to(state.device)
        floors.append(int(engine.floors()[0]))
        with recording(model):
            model.step(seen[:1], state[:1])
            for layer, weights in take_gate_weights(model).items():
                gates[layer].append(weights)
        logits, state = model.step(seen, state)
        actions, _ = sample_actions(logits, generator)
        observations, _, terminated, truncated = engine.step(actions.numpy())
        done = terminated | truncated
        if done[0]:
            break
        if done.any():
            ended = np.flatnonzero(done)
            observations = engine.renew(ended)
            state[ended] = 0.0
    return Trace(floors, dict(gates))
